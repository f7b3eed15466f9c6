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

#[tokio::test]
async fn one_of_our_own_is_found_again_and_is_good_for_each_name() {
    let folder = tempfile::tempdir().unwrap();
    let names = names(Some("https://192.0.2.7:8443"));
    let first = self_made(&safe(&folder), &names, now()).await.unwrap();
    let roots = authorities(first.ca_bundle.as_deref().unwrap()).unwrap();
    let checked = check::check(first.certificate.chain(), Some(&roots), names.all(), now());
    assert_eq!(checked, Ok(first.expires));
    assert_eq!(first.expires, now() + SERVING_VALID);
    check::check(first.certificate.chain(), Some(&roots), names.all(), now() - BACKDATED)
        .expect("valid a while before");

    let again = self_made(&safe(&folder), &names, now() + TimeDelta::days(30)).await.unwrap();
    assert_eq!((own(&again), again.ca_bundle), (own(&first), first.ca_bundle));
}

#[tokio::test]
async fn at_a_start_what_is_no_longer_good_is_replaced_under_the_same_ca_while_that_is_good() {
    let (first_names, other_names) = (names(None), names(Some("https://audit.example.org")));
    let cases = [
        ("with 61 days left", &first_names, SERVING_VALID - TimeDelta::days(61), true, true),
        ("with 59 days left", &first_names, SERVING_VALID - TimeDelta::days(59), false, true),
        ("expired", &first_names, SERVING_VALID + TimeDelta::days(1), false, true),
        ("a name is new", &other_names, TimeDelta::zero(), false, true),
        ("a CA with less than a year left", &first_names, AUTHORITY_VALID - TimeDelta::days(364), false, false),
        ("a CA that expired", &first_names, AUTHORITY_VALID + TimeDelta::days(1), false, false),
        ("a clock that was in the future", &first_names, TimeDelta::days(-1), false, false),
    ];
    for (case, wanted, later, same_certificate, same_authority) in cases {
        let folder = tempfile::tempdir().unwrap();
        let first = self_made(&safe(&folder), &first_names, now()).await.unwrap();
        let next = self_made(&safe(&folder), wanted, now() + later).await.unwrap();
        assert_eq!(own(&first) == own(&next), same_certificate, "{case}");
        assert_eq!(first.ca_bundle == next.ca_bundle, same_authority, "{case}");
        let roots = authorities(next.ca_bundle.as_deref().unwrap()).unwrap();
        check::check(next.certificate.chain(), Some(&roots), wanted.all(), now() + later).expect(case);
    }
}

#[tokio::test]
async fn what_was_kept_and_is_garbled_is_made_anew() {
    for garbled in ["", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "\u{fffd}"] {
        let folder = tempfile::tempdir().unwrap();
        safe(&folder).exchange(CERTIFICATES, None, garbled.as_bytes()).await.unwrap();
        let made = self_made(&safe(&folder), &names(None), now()).await.unwrap();
        let again = self_made(&safe(&folder), &names(None), now()).await.unwrap();
        assert_eq!(own(&made), own(&again), "{garbled:?}");
    }
}

#[test]
fn a_bundle_reads_back_and_one_of_mixed_parts_does_not() {
    let (one, other) = (Bundle::made(&names(None), now()).unwrap(), Bundle::made(&names(None), now()).unwrap());
    let text = one.text();
    assert_eq!(Bundle::parse(text.as_bytes()).unwrap().text(), text);
    let mixed =
        text.replace(text.rsplit_once("-----BEGIN").unwrap().1, other.text().rsplit_once("-----BEGIN").unwrap().1);
    assert!(Bundle::parse(mixed.as_bytes()).is_none(), "the key of another certificate");
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
