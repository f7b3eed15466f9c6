//! Tries what is in the image as a cluster would run it: alone in its root, as its user, with names that only a server of
//! names knows. A program that is linked statically is right about all but what its C library would have loaded.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::build::Built;
use super::{PROGRAMS, USER};
use crate::oci::Image;

/// Where a resolver asks, whatever resolv.conf says.
const DNS_PORT: u16 = 53;
/// What a Pod's resolv.conf makes of `db`, and another name that is not tried before.
const SHORT_NAME: &str = "db";
const SEARCH: &str = "audit.svc.cluster.local";
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);

pub(super) fn run(image: &Image, built: &Built) -> anyhow::Result<()> {
    let folder = std::env::temp_dir().join(format!("kubevision-audit-image-{}", std::process::id()));
    let checked = unpack(image, &folder).and_then(|()| try_programs(&folder, built));
    fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    checked
}

fn unpack(image: &Image, folder: &Path) -> anyhow::Result<()> {
    fs::create_dir(folder).with_context(|| format!("creating {}", folder.display()))?;
    // Who tries the programs is not who unpacks them.
    fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    for (path, node) in &image.files {
        let path = folder.join(path);
        match (&node.content, path.parent()) {
            (Some(content), Some(above)) => fs::create_dir_all(above).and_then(|()| fs::write(&path, content)),
            _ => fs::create_dir_all(&path),
        }
        .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(node.mode)))
        .with_context(|| format!("unpacking {}", path.display()))?;
    }
    Ok(())
}

fn try_programs(folder: &Path, built: &Built) -> anyhow::Result<()> {
    for (name, content) in &built.programs {
        ensure!(!needs_a_loader(content), "{name} is not linked statically");
        let said = succeeds(folder, &[name, "--version"])?;
        ensure!(said.trim() == format!("{name} {}", built.version), "{name} --version says {said:?}");
    }
    let help = succeeds(folder, &[PROGRAMS[0], "serve", "--help"])?;
    ensure!(help.contains("Usage: "), "serve --help says {help:?}");
    let how = resolves(folder)?;
    println!("runs    alone in its root{}; resolves names by {how}", if is_root() { " as its user" } else { "" });
    Ok(())
}

/// The name of the segment in which a program asks for ld.so.
fn needs_a_loader(program: &[u8]) -> bool {
    program.windows(LOADER.len()).any(|window| window == LOADER)
}

const LOADER: &[u8] = b"/ld-linux";

/// The database is a listener of ours, under a name that is resolved as in a Pod: to be called by it is the proof.
fn resolves(folder: &Path) -> anyhow::Result<&'static str> {
    let database = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("binding a port for the database")?;
    let port = database.local_addr()?.port();
    let server = name_server(std::process::id());
    let how = match UdpSocket::bind(SocketAddr::from((server, DNS_PORT))) {
        Ok(socket) => {
            let wanted = format!("{SHORT_NAME}.{SEARCH}");
            thread::spawn(move || serve_names(&socket, &wanted));
            let conf = format!("nameserver {server}\nsearch {SEARCH} svc.cluster.local\noptions ndots:5\n");
            fs::write(folder.join("etc/resolv.conf"), conf)?;
            "DNS"
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            fs::write(folder.join("etc/hosts"), format!("{} {SHORT_NAME}\n", Ipv4Addr::LOCALHOST))?;
            "/etc/hosts (DNS is tried by root only, whose its port is)"
        }
        Err(error) => return Err(error).with_context(|| format!("binding {server}:{DNS_PORT} for a server of names")),
    };
    let (called, calls) = mpsc::channel();
    thread::spawn(move || {
        // Closed at once: who calls is told that this is no database.
        let call = database.accept().map(drop);
        drop(database);
        called.send(call)
    });
    let mut program = inside(folder, &[PROGRAMS[0], "migrate"]);
    let url = format!("postgres://audit@{SHORT_NAME}:{port}/audit?sslmode=disable");
    let mut child =
        program.env("KUBEVISION_AUDIT_DATABASE__URL", url).stderr(Stdio::null()).spawn().context("starting migrate")?;
    let called = calls.recv_timeout(ANSWERED_WITHIN);
    child.kill().and_then(|()| child.wait()).context("ending migrate")?;
    called.with_context(|| format!("migrate did not resolve {SHORT_NAME} by {how}"))??;
    Ok(how)
}

/// A loopback address that neither the machine's own server of names nor that of another run has.
fn name_server(process: u32) -> Ipv4Addr {
    let [.., a, b, c] = process.to_be_bytes();
    Ipv4Addr::new(127, 128 | a, b, c)
}

/// Answers one name with 127.0.0.1, an IPv6 question for it with nothing, and says of all others that they don't exist.
fn serve_names(socket: &UdpSocket, wanted: &str) {
    let mut query = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut query) {
        let Some(answer) = answer(&query[..length], wanted) else { continue };
        if socket.send_to(&answer, from).is_err() {
            return;
        }
    }
}

/// To one question, as RFC 1035 has it; None to what is none.
fn answer(query: &[u8], wanted: &str) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    const FOUND: [u8; 2] = [0x81, 0x80];
    const NO_SUCH_NAME: [u8; 2] = [0x81, 0x83];
    let mut name = String::new();
    let mut at = HEADER;
    while let label @ 1..=63 = usize::from(*query.get(at)?) {
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(std::str::from_utf8(query.get(at + 1..=at + label)?).ok()?);
        at += label + 1;
    }
    // The root's empty label, type, class.
    let question = query.get(HEADER..at + 5)?;
    let is_wanted = name.eq_ignore_ascii_case(wanted);
    let has_address = is_wanted && question.ends_with(&[0, 1, 0, 1]);
    let mut answer = query.get(..2)?.to_vec();
    answer.extend(if is_wanted { FOUND } else { NO_SUCH_NAME });
    answer.extend([0, 1, 0, u8::from(has_address), 0, 0, 0, 0]);
    answer.extend(question);
    if has_address {
        // The name by its place above; an address; for a second.
        answer.extend([0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend(Ipv4Addr::LOCALHOST.octets());
    }
    Some(answer)
}

fn succeeds(folder: &Path, command: &[&str]) -> anyhow::Result<String> {
    let Output { status, stdout, stderr } =
        inside(folder, command).output().with_context(|| format!("running {}", command.join(" ")))?;
    ensure!(status.success(), "{}: {}", command.join(" "), String::from_utf8_lossy(&stderr).trim());
    String::from_utf8(stdout).with_context(|| format!("the output of {} is not UTF-8", command.join(" ")))
}

/// A user who is not root may change its root in a namespace where it is.
fn inside(folder: &Path, command: &[&str]) -> Command {
    let mut inside = if is_root() {
        let mut chroot = Command::new("chroot");
        chroot.arg(format!("--userspec={USER}:{USER}"));
        chroot
    } else {
        let mut unshare = Command::new("unshare");
        unshare.args(["--map-root-user", "chroot"]);
        unshare
    };
    inside.arg(folder).arg(format!("/{}", command[0])).args(&command[1..]).env_clear();
    if let Some(path) = std::env::var_os("PATH") {
        inside.env("PATH", path);
    }
    inside
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u8) -> Vec<u8> {
        let mut query = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(label.len() as u8);
            query.extend(label.bytes());
        }
        query.extend([0, 0, kind, 0, 1]);
        query
    }

    #[test]
    fn one_name_has_an_address_and_the_others_do_not_exist() {
        let found = answer(&query("db.audit.svc", 1), "DB.audit.svc").unwrap();
        assert!(found.starts_with(&[0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 1]) && found.ends_with(&[0, 4, 127, 0, 0, 1]));
        let ipv6 = answer(&query("db.audit.svc", 28), "db.audit.svc").unwrap();
        assert_eq!(ipv6[2..8], [0x81, 0x80, 0, 1, 0, 0]);
        assert_eq!(answer(&query("db", 1), "db.audit.svc").unwrap()[2..8], [0x81, 0x83, 0, 1, 0, 0]);
        assert_eq!(answer(&query("db", 1)[..14], "db"), None);
    }

    #[test]
    fn two_runs_at_once_have_a_server_of_names_each() {
        assert_ne!(name_server(4_194_303), name_server(4_194_302));
        assert!(name_server(1).is_loopback() && name_server(4_194_304).is_loopback());
    }

    #[test]
    fn a_program_that_asks_for_a_loader_is_not_static() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(needs_a_loader(&own));
        assert!(!needs_a_loader(b"\x7fELF and nothing else"));
    }
}
