use std::fs;

use rustls::pki_types::CertificateDer;
use tokio::time::Instant;

use super::decide::{Seen, Step, decide};
use super::given::Given;
use super::make::Beside;
use super::trust::Authorities;
use super::*;

fn now() -> DateTime<Utc> {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn names(url: Option<&str>) -> Names {
    Names::of(url.map(|url| url.parse().unwrap()).as_ref(), "kubevision-audit", "kubevision-audit").unwrap()
}

fn safe(folder: &tempfile::TempDir) -> Safe {
    Safe::Files { beside: folder.path().join("audit.db") }
}

fn own(serving: &Serving) -> CertificateDer<'static> {
    serving.certificate.chain()[0].clone()
}

fn ders(ca_bundle: Option<&[u8]>) -> Vec<CertificateDer<'static>> {
    Authorities::parse(ca_bundle.unwrap()).unwrap().ders()
}

async fn kept(safe: &Safe) -> Bundle {
    Bundle::parse(&safe.read(CERTIFICATES).await.unwrap().unwrap()).unwrap()
}

async fn started(safe: &Safe, names: &Names, at: DateTime<Utc>) -> Keeper {
    Keeper::start(Source::SelfMade(safe.clone()), names.clone(), SETTLE, at).await.unwrap()
}

#[tokio::test]
async fn one_of_our_own_is_found_again_and_is_good_for_each_name() {
    let folder = tempfile::tempdir().unwrap();
    let names = names(Some("https://192.0.2.7:8443"));
    let status = started(&safe(&folder), &names, now()).await.status().borrow().clone();
    assert_eq!(status, Status { expires: now() + SERVING_VALID, phase: Phase::Steady, last_error: None });
    let first = kept(&safe(&folder)).await;
    let text = first.text();
    let first = first.into_serving();
    let roots = ders(first.ca_bundle.as_deref());
    for at in [now(), now() - BACKDATED] {
        let checked = check::check(first.certificate.chain(), Some(&roots), names.all(), at);
        assert_eq!(checked, Ok(now() + SERVING_VALID));
    }
    drop(started(&safe(&folder), &names, now() + TimeDelta::days(30)).await);
    assert_eq!(kept(&safe(&folder)).await.text(), text);
}

#[tokio::test]
async fn what_was_kept_and_is_garbled_is_made_anew() {
    for garbled in ["", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "\u{fffd}"] {
        let folder = tempfile::tempdir().unwrap();
        safe(&folder).exchange(CERTIFICATES, None, garbled.as_bytes()).await.unwrap();
        drop(started(&safe(&folder), &names(None), now()).await);
        let made = kept(&safe(&folder)).await.text();
        drop(started(&safe(&folder), &names(None), now()).await);
        assert_eq!(kept(&safe(&folder)).await.text(), made, "{garbled:?}");
    }
}

#[test]
fn a_bundle_of_each_phase_reads_back_and_one_of_mixed_parts_does_not() {
    let made = || Bundle::made(&names(None), now()).unwrap();
    let introduced = || made().introduced(now()).unwrap();
    let switched = || introduced().switched(&names(None), now()).unwrap();
    let cases = [
        (made(), Phase::Steady, 4, 1),
        (introduced(), Phase::Introduced, 6, 2),
        (switched(), Phase::Switched, 5, 2),
        (switched().retired(), Phase::Steady, 4, 1),
    ];
    for (bundle, phase, blocks, trusted) in cases {
        let text = bundle.text();
        assert_eq!((bundle.phase(), text.matches("-----BEGIN").count()), (phase, blocks));
        assert_eq!(Bundle::parse(text.as_bytes()).unwrap().text(), text);
        assert_eq!(ders(bundle.into_serving().ca_bundle.as_deref()).len(), trusted, "{phase}");
    }
    let (one, other) = (made().text(), made().text());
    let mixed = one.replace(one.rsplit_once("-----BEGIN").unwrap().1, other.rsplit_once("-----BEGIN").unwrap().1);
    assert!(Bundle::parse(mixed.as_bytes()).is_none(), "the key of another certificate");
    assert!(Bundle::parse(format!("{one}{other}").as_bytes()).is_none(), "too much");
}

/// What a replica may have seen: for how long the current and the next CA in the registration, for how long the
/// certificate it serves; in seconds.
fn seen(bundle: &Bundle, current: Option<u64>, next: Option<u64>, serving: u64) -> Seen {
    let mut trusted = Vec::new();
    trusted.extend(current.map(|since| (bundle.authority().clone(), Duration::from_secs(since))));
    if let (Beside::Next(der), Some(since)) = (&bundle.beside, next) {
        trusted.push((der.der().clone(), Duration::from_secs(since)));
    }
    Seen { settle: SETTLE, trusted, serving: Duration::from_secs(serving) }
}

#[test]
fn each_step_is_decided_from_what_is_kept_the_time_and_what_was_seen() {
    type Case = (&'static str, fn() -> Bundle, TimeDelta, [Option<u64>; 2], u64, Step);
    fn steady() -> Bundle {
        Bundle::made(&names(None), now()).unwrap()
    }
    fn introduced() -> Bundle {
        steady().introduced(now()).unwrap()
    }
    fn switched() -> Bundle {
        introduced().switched(&names(None), now()).unwrap()
    }
    fn reissued_late() -> Bundle {
        steady().reissued(&names(None), now() + AUTHORITY_VALID - TimeDelta::days(30)).unwrap()
    }
    let (none, both) = ([None, None], [Some(12), Some(12)]);
    let (zero, day) = (TimeDelta::zero(), TimeDelta::days(1));
    let soon = AUTHORITY_VALID - SERVING_VALID - RENEW_BEFORE;
    // What is kept, how much later it is, for how long the current and the next CA were seen registered, for how long
    // the certificate was served, what to do.
    let cases: [Case; 18] = [
        ("all is well", steady, zero, none, 0, Step::Keep),
        ("61 days left", steady, SERVING_VALID - TimeDelta::days(61), none, 99, Step::Keep),
        ("59 days left", steady, SERVING_VALID - TimeDelta::days(59), none, 99, Step::Reissue),
        ("expired", steady, SERVING_VALID + day, none, 99, Step::Reissue),
        ("expired, and a CA is about to", steady, soon + day, none, 99, Step::Reissue),
        (
            "the CA is not outlived by what it signs",
            reissued_late,
            AUTHORITY_VALID - TimeDelta::days(30),
            none,
            0,
            Step::Introduce,
        ),
        ("the CA expired", steady, AUTHORITY_VALID + day, both, 99, Step::Make),
        ("the CA expired, and there is a next one", introduced, AUTHORITY_VALID + day, both, 99, Step::Make),
        ("a clock that was in the future", steady, -day, none, 0, Step::Make),
        ("introduced, and not registered", introduced, zero, [Some(99), None], 99, Step::Keep),
        ("registered a moment ago", introduced, zero, [Some(99), Some(11)], 99, Step::Keep),
        ("the current one was taken out for a moment", introduced, zero, [Some(3), Some(99)], 99, Step::Keep),
        ("known everywhere", introduced, zero, both, 0, Step::Switch),
        ("too old to wait", introduced, SERVING_VALID - TimeDelta::days(59), both, 99, Step::Reissue),
        ("switched a moment ago", switched, zero, both, 11, Step::Keep),
        ("followed by all", switched, zero, none, 12, Step::Retire),
        ("followed by all, and too old", switched, SERVING_VALID, none, 99, Step::Reissue),
        ("a clock that jumped ahead", switched, TimeDelta::days(100), both, 0, Step::Keep),
    ];
    for (case, bundle, later, [current, next], serving, step) in cases {
        let bundle = bundle();
        let seen = seen(&bundle, current, next, serving);
        assert_eq!(decide(Some(&bundle), &names(None), now() + later, &seen), step, "{case}");
    }
    let bundle = steady();
    let seen = seen(&bundle, None, None, 0);
    assert_eq!(decide(None, &names(None), now(), &seen), Step::Make);
    let other = names(Some("https://audit.example.org"));
    assert_eq!(decide(Some(&bundle), &other, now(), &seen), Step::Reissue, "a name is new");
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_is_due_is_followed_by_another_and_every_replica_serves_at_all_times_what_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let (safe, names, due) = (safe(&folder), names(None), now() + AUTHORITY_VALID - TimeDelta::days(424));
    let made = Bundle::made(&names, now()).unwrap().reissued(&names, due).unwrap();
    safe.exchange(CERTIFICATES, None, made.text().as_bytes()).await.unwrap();
    let mut replicas = [started(&safe, &names, due).await, started(&safe, &names, due).await];
    assert_eq!(kept(&safe).await.phase(), Phase::Introduced);
    let mut registered: Option<Vec<u8>> = Some(made.into_serving().ca_bundle.unwrap());
    let mut phases = Vec::new();
    for _ in 0..15 {
        for turn in 0..replicas.len() {
            let live = Live { ca_bundle: registered.as_deref(), sealed: true };
            registered = replicas[turn].look(Some(&live), due).await;
            let phase = replicas[turn].status().borrow().phase;
            if phases.last() != Some(&phase) {
                phases.push(phase);
            }
            let trusted = ders(registered.as_deref());
            for replica in &replicas {
                check::check(std::slice::from_ref(&replica.served), Some(&trusted), names.all(), due).unwrap();
            }
        }
        tokio::time::advance(PERIOD).await;
    }
    assert_eq!(phases, [Phase::Introduced, Phase::Switched, Phase::Steady]);
    let after = kept(&safe).await;
    assert_eq!(after.phase(), Phase::Steady);
    assert_eq!(ders(registered.as_deref()), [after.authority().clone()]);
}

#[tokio::test(start_paused = true)]
async fn a_safe_that_cannot_be_read_leaves_what_other_replicas_registered() {
    let folder = tempfile::tempdir().unwrap();
    let (safe, names) = (safe(&folder), names(None));
    let mut keeper = started(&safe, &names, now()).await;
    let mine = kept(&safe).await.into_serving().ca_bundle;
    fs::remove_file(folder.path().join("audit.db.certificates.pem")).unwrap();
    fs::create_dir(folder.path().join("audit.db.certificates.pem")).unwrap();
    let theirs = b"of another replica".as_slice();
    let sealed = Live { ca_bundle: Some(theirs), sealed: true };
    assert_eq!(keeper.look(Some(&sealed), now()).await.as_deref(), Some(theirs));
    assert!(keeper.status().borrow().last_error.as_ref().unwrap().contains("is not a file"));
    let forged = Live { ca_bundle: Some(theirs), sealed: false };
    assert_eq!(keeper.look(Some(&forged), now()).await, mine);
}

#[tokio::test]
async fn a_rotation_is_begun_once_and_needs_something_to_replace() {
    let folder = tempfile::tempdir().unwrap();
    let safe = safe(&folder);
    let error = rotate(&safe, now()).await.unwrap_err().to_string();
    assert!(error.ends_with("there is no certificate yet; `kubevision-audit serve` makes one at its start"), "{error}");
    drop(started(&safe, &names(None), now()).await);
    assert_eq!(rotate(&safe, now()).await.unwrap(), Rotation::Begun);
    let begun = kept(&safe).await.text();
    assert_eq!(rotate(&safe, now()).await.unwrap(), Rotation::UnderWay(Phase::Introduced));
    assert_eq!(kept(&safe).await.text(), begun);
}

/// A serving certificate as files, as somebody else would issue it, with the CA beside it.
fn files(folder: &tempfile::TempDir, made: &Bundle) -> GivenFiles {
    let text = made.text();
    let blocks: Vec<String> = text.split_inclusive("-----END ").map(str::to_owned).collect();
    let block = |index: usize| {
        let start = text.match_indices("-----BEGIN").nth(index).unwrap().0;
        let end = text.match_indices("-----BEGIN").nth(index + 1).map_or(text.len(), |next| next.0);
        &text[start..end]
    };
    assert_eq!(blocks.len(), 5);
    let write = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    GivenFiles {
        cert_file: write("tls.crt", block(2)),
        key_file: write("tls.key", block(3)),
        ca_file: Some(write("ca.crt", block(0))),
    }
}

fn given(files: &GivenFiles, names: &Names, now: DateTime<Utc>) -> Result<Serving, CertificateError> {
    Ok(Given::start(files.clone(), names, now)?.serving(None, now, Instant::now()).0)
}

#[test]
fn given_files_that_are_good_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let made = Bundle::made(&names(None), now()).unwrap();
    let files = files(&folder, &made);
    let serving = given(&files, &names(None), now()).unwrap();
    assert_eq!((own(&serving), serving.expires), (made.certificate().chain()[0].clone(), now() + SERVING_VALID));
    assert_eq!(serving.ca_bundle.unwrap(), fs::read(files.ca_file.as_ref().unwrap()).unwrap());
    let trusted_anyway = given(&GivenFiles { ca_file: None, ..files }, &names(None), now()).unwrap();
    assert_eq!(trusted_anyway.ca_bundle, None);
}

#[test]
fn a_given_file_that_is_bad_is_named_with_its_fault() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let good = files(&folder, &Bundle::made(&names(None), now()).unwrap());
    let others = files(&elsewhere, &Bundle::made(&names(None), now()).unwrap());
    let text = folder.path().join("text");
    fs::write(&text, "not PEM").unwrap();
    let missing = folder.path().join("missing");

    let with = |change: fn(&mut GivenFiles, PathBuf), path: &PathBuf| {
        let mut files = good.clone();
        change(&mut files, path.clone());
        files
    };
    let cert: fn(&mut GivenFiles, PathBuf) = |files, path| files.cert_file = path;
    let key: fn(&mut GivenFiles, PathBuf) = |files, path| files.key_file = path;
    let ca: fn(&mut GivenFiles, PathBuf) = |files, path| files.ca_file = Some(path);
    let url = names(Some("https://audit.example.org"));
    let cases = [
        (with(cert, &missing), names(None), now(), "tls.cert_file", "missing: cannot be read: entity not found"),
        (with(key, &missing), names(None), now(), "tls.key_file", "missing: cannot be read: entity not found"),
        (with(ca, &missing), names(None), now(), "tls.ca_file", "missing: cannot be read: entity not found"),
        (with(cert, &text), names(None), now(), "tls.cert_file", "no certificate found"),
        (with(key, &text), names(None), now(), "tls.cert_file", "no private key found"),
        (with(ca, &text), names(None), now(), "tls.ca_file", "accepted is PEM with one or more CERTIFICATE blocks"),
        (with(key, &others.key_file), names(None), now(), "tls.cert_file", "does not belong to the certificate"),
        (
            with(ca, others.ca_file.as_ref().unwrap()),
            names(None),
            now(),
            "tls.cert_file",
            "it is not signed by what tls.ca_file holds",
        ),
        (good.clone(), url, now(), "tls.cert_file", "it is not for audit.example.org, which the API server calls"),
        (good.clone(), names(None), now() + TimeDelta::days(366), "tls.cert_file", "expired at 2027-03-01T12:00:00Z"),
        (
            good.clone(),
            names(None),
            now() - TimeDelta::days(1),
            "tls.cert_file",
            "is not valid before 2026-03-01T11:00:00Z",
        ),
    ];
    for (files, names, at, key, fault) in cases {
        let error = given(&files, &names, at).unwrap_err();
        let told = error.to_string();
        assert!(told.starts_with(key) && told.contains(fault), "{told}");
        assert_eq!(error.retry(), Retry::Never);
    }
}

/// Puts another's files in the place of these, as a kubelet does.
fn replace(files: &GivenFiles, by: &Bundle) {
    let folder = tempfile::tempdir().unwrap();
    let other = self::files(&folder, by);
    let ca = |files: &GivenFiles| files.ca_file.clone().unwrap();
    for (from, to) in
        [(&other.cert_file, &files.cert_file), (&other.key_file, &files.key_file), (&ca(&other), &ca(files))]
    {
        fs::copy(from, to).unwrap();
    }
}

/// A replica with given files, and the registration as it alone would keep it.
struct Replica {
    keeper: Keeper,
    registered: Option<Vec<u8>>,
}

impl Replica {
    async fn start(files: &GivenFiles) -> Self {
        let source = Source::Given(files.clone());
        let mut keeper = Keeper::start(source, names(None), SETTLE, now()).await.unwrap();
        let registered = keeper.look(Some(&Live::default()), now()).await;
        Self { keeper, registered }
    }

    /// Looks once; tells how many CAs are registered then, and the phase.
    async fn looks(&mut self) -> (usize, Phase) {
        let live = Live { ca_bundle: self.registered.as_deref(), sealed: true };
        self.registered = self.keeper.look(Some(&live), now()).await;
        (ders(self.registered.as_deref()).len(), self.keeper.status().borrow().phase)
    }

    fn expires(&self) -> DateTime<Utc> {
        self.keeper.status().borrow().expires
    }
}

fn later() -> DateTime<Utc> {
    now() + BACKDATED - TimeDelta::minutes(1)
}

#[tokio::test(start_paused = true)]
async fn given_files_under_the_same_ca_are_taken_over_at_once_and_bad_ones_never() {
    let folder = tempfile::tempdir().unwrap();
    let made = Bundle::made(&names(None), now()).unwrap();
    let files = files(&folder, &made);
    let mut replica = Replica::start(&files).await;
    assert_eq!((replica.looks().await, replica.expires()), ((1, Phase::Steady), now() + SERVING_VALID));
    replace(&files, &made.reissued(&names(None), later()).unwrap());
    assert_eq!((replica.looks().await, replica.expires()), ((1, Phase::Steady), later() + SERVING_VALID));

    for fault in ["not PEM", ""] {
        fs::write(&files.cert_file, fault).unwrap();
        assert_eq!((replica.looks().await, replica.expires()), ((1, Phase::Steady), later() + SERVING_VALID));
        let told = replica.keeper.status().borrow().last_error.clone().unwrap();
        assert!(told.starts_with("tls.cert_file") && told.contains("no certificate found"), "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_given_ca_is_registered_before_it_is_served_with_and_the_one_before_is_kept_for_others() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(&folder, &Bundle::made(&names(None), now()).unwrap());
    let mut replica = Replica::start(&files).await;
    replica.looks().await;
    let first = replica.registered.clone();
    replace(&files, &Bundle::made(&names(None), later()).unwrap());
    let start = Instant::now();
    let (mut swapped, mut dropped) = (None, None);
    for _ in 0..90 {
        let (registered, phase) = replica.looks().await;
        let swapped_now = replica.expires() > now() + SERVING_VALID;
        match (swapped_now, registered) {
            (false, 2) => assert_eq!(phase, Phase::Introduced),
            (true, 2) => {
                assert_eq!(phase, Phase::Switched);
                swapped.get_or_insert(start.elapsed());
            }
            (true, 1) => {
                assert_eq!(phase, Phase::Steady);
                dropped.get_or_insert(start.elapsed());
            }
            other => panic!("{other:?}"),
        }
        tokio::time::advance(PERIOD).await;
    }
    let (swapped, dropped) = (swapped.unwrap(), dropped.unwrap());
    assert!((SETTLE..=SETTLE + 2 * PERIOD).contains(&swapped), "{swapped:?}");
    assert!((KEEP_FOR..=KEEP_FOR + 2 * PERIOD).contains(&(dropped - swapped)), "{dropped:?}");
    assert_ne!(replica.registered, first);
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_somebody_slipped_into_a_registration_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(&folder, &Bundle::made(&names(None), now()).unwrap());
    let mut replica = Replica::start(&files).await;
    let other = Bundle::made(&names(None), now()).unwrap().into_serving().ca_bundle.unwrap();
    let both = [replica.registered.clone().unwrap(), other].concat();
    let forged = Live { ca_bundle: Some(&both), sealed: false };
    assert_eq!(replica.keeper.look(Some(&forged), now()).await, replica.registered);
    // Of another replica, it is; in whatever order.
    let sealed = Live { sealed: true, ..forged };
    assert_eq!(replica.keeper.look(Some(&sealed), now()).await, Some(both));
}
