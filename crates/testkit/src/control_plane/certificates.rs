//! Who is who in the test cluster: two authorities, and a certificate for each part that has to prove itself.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

/// Under these names clients inside and outside a cluster know its API server.
const SERVING_NAMES: [&str; 6] =
    ["127.0.0.1", "localhost", "10.0.0.1", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
/// Whose certificate the aggregation layer shows, and the only name that extension servers trust for that.
pub const FRONT_PROXY_CLIENT: &str = "front-proxy-client";

/// A certificate with its key, as PEM.
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

/// Signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let mut params = named(name, None)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?);
        Ok(Self(issuer.with_context(|| format!("making the authority {name}"))?))
    }

    pub fn certificate(&self) -> String {
        self.0.pem()
    }

    /// For who signs in its name: the controller-manager.
    pub fn key(&self) -> String {
        self.0.key().serialize_pem()
    }

    /// For a server under `names`, DNS or IP.
    pub fn server<N: Into<String>>(&self, names: impl IntoIterator<Item = N>) -> anyhow::Result<Identity> {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = subject("server", None);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    /// For a client: the API server takes the user from the common name, the group from the organization.
    pub fn client(&self, user: &str, group: Option<&str>) -> anyhow::Result<Identity> {
        let mut params = named(user, group)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> anyhow::Result<Identity> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0)?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// The files that the API server's flags name.
pub(super) struct Certificates {
    pub(super) authority: Authority,
    folder: PathBuf,
}

impl Certificates {
    pub(super) fn write(folder: &Path) -> anyhow::Result<Self> {
        let (authority, front_proxy) = (Authority::new("kubernetes")?, Authority::new("front-proxy")?);
        let certificates = Self { authority, folder: folder.to_owned() };
        certificates.put("ca.crt", &certificates.authority.certificate())?;
        certificates.put("front-proxy-ca.crt", &front_proxy.certificate())?;
        certificates.put_identity("serving", &certificates.authority.server(SERVING_NAMES)?)?;
        certificates.put_identity("front-proxy", &front_proxy.client(FRONT_PROXY_CLIENT, None)?)?;
        let tokens = KeyPair::generate()?;
        certificates.put("service-account.key", &tokens.serialize_pem())?;
        certificates.put("service-account.pub", &tokens.public_key_pem())?;
        Ok(certificates)
    }

    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    fn put_identity(&self, name: &str, identity: &Identity) -> anyhow::Result<()> {
        self.put(&format!("{name}.crt"), &identity.certificate)?;
        self.put(&format!("{name}.key"), &identity.key)
    }

    fn put(&self, file: &str, pem: &str) -> anyhow::Result<()> {
        write_private(&self.path(file), pem)
    }
}

/// Readable by its owner only, from its first byte on.
pub(super) fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = File::create(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        file.write_all(text.as_bytes())
    };
    write().with_context(|| format!("writing {}", path.display()))
}

fn named(name: &str, group: Option<&str>) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name = subject(name, group);
    Ok(params)
}

fn subject(name: &str, group: Option<&str>) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    if let Some(group) = group {
        subject.push(DnType::OrganizationName, group);
    }
    subject.push(DnType::CommonName, name);
    subject
}
