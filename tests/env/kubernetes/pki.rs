//! A cluster's certificates and the kubeconfigs that name them.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Who vouches for whom, in a folder.
pub struct Pki {
    folder: PathBuf,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    pub fn new(folder: &Path) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = name("sendo-test", None);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let pki = Self { folder: folder.to_owned(), authority };
        fs::write(pki.file("ca.crt"), pki.authority.pem()).unwrap();
        pki.signing_key("sa.key");
        pki
    }

    /// What signs the tokens of service accounts: RSA, as real clusters have it.
    pub fn signing_key(&self, name: &str) {
        let mut openssl = Command::new("openssl");
        openssl.args(["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out"]);
        let made = openssl.arg(self.file(name)).output().expect("openssl, which `make test` installs");
        assert!(made.status.success(), "{}", crate::env::stderr(&made));
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// `FILE.crt` and `FILE.key` for a server at these names and addresses, or for a client (who may be both).
    pub fn certify(&self, file: &str, common_name: &str, group: Option<&str>, names: &[&str]) {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name = name(common_name, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        fs::write(self.file(&format!("{file}.crt")), certificate.pem()).unwrap();
        fs::write(self.file(&format!("{file}.key")), key.serialize_pem()).unwrap();
    }

    /// A kubeconfig of that client, whom this certifies.
    pub fn client(&self, file: &str, user: &str, group: Option<&str>, server: &str) -> PathBuf {
        self.certify(file, user, group, &[]);
        let [certificate, key] = ["crt", "key"].map(|end| self.file(&format!("{file}.{end}")));
        self.kubeconfig(file, server, &json!({"client-certificate": certificate, "client-key": key}))
    }

    /// A kubeconfig of who can show this.
    pub fn kubeconfig(&self, file: &str, server: &str, credentials: &serde_json::Value) -> PathBuf {
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": self.file("ca.crt")}}],
            "users": [{"name": "test", "user": credentials}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        let path = self.file(&format!("{file}.kubeconfig"));
        fs::write(&path, text.to_string()).unwrap(); // JSON is YAML
        path
    }
}

fn name(common_name: &str, group: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    if let Some(group) = group {
        name.push(DnType::OrganizationName, group);
    }
    name
}
