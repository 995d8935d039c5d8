//! The data directory: which file is where, and how the private ones are made.
//!
//! `serve` makes it (0700, files 0600); the other commands read three of its files to find the server:
//! `addresses.json` (only there while a server runs), `management.token` and `tls/ca.pem`.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gridwire_outside::{Disk, DiskFile, OpenMode, Rng};
use serde::{Deserialize, Serialize};

/// Where a data directory is when nobody says otherwise.
pub(crate) const DEFAULT: &str = "./gridwire-data";

/// Shorter tokens could be guessed.
const TOKEN_LENGTH_MIN: usize = 16;

/// A data directory; it need not exist yet.
#[derive(Clone, Debug)]
pub(crate) struct DataDir {
    root: PathBuf,
}

/// Where a running server listens: the contents of `addresses.json`, each `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Addresses {
    pub(crate) http: String,
    pub(crate) https: String,
    pub(crate) admin: String,
}

/// The keys that never leave the data directory.
pub(crate) struct Secrets {
    /// Authenticates lock tokens.
    pub(crate) token: [u8; 32],
    /// Seals access keys and endpoint URLs at rest.
    pub(crate) master: [u8; 32],
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(***)")
    }
}

impl DataDir {
    pub(crate) fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn addresses_file(&self) -> PathBuf {
        self.root.join("addresses.json")
    }

    pub(crate) fn token_file(&self) -> PathBuf {
        self.root.join("management.token")
    }

    pub(crate) fn secrets_file(&self) -> PathBuf {
        self.root.join("secrets")
    }

    pub(crate) fn tls_dir(&self) -> PathBuf {
        self.root.join("tls")
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.tls_dir().join("ca.pem")
    }

    /// How far the virtual clock is ahead; only there after an advance.
    pub(crate) fn dev_clock_file(&self) -> PathBuf {
        self.root.join("dev-clock.json")
    }

    /// Topics, subscriptions and namespaces.
    pub(crate) fn resources_file(&self) -> PathBuf {
        self.root.join("meta.redb")
    }

    /// Makes the directory and takes it for this process; it is free again when the answer is dropped.
    pub(crate) fn take(&self, disk: &dyn Disk) -> anyhow::Result<Arc<dyn DiskFile>> {
        create_private_dir(&self.root)
            .with_context(|| format!("failed to create the data directory `{}`", self.root.display()))?;
        let mode = self.mode()?;
        if mode & 0o077 != 0 {
            tracing::warn!(
                directory = %self.root.display(),
                mode = format!("{mode:o}"),
                "other users can look into the data directory: chmod 700 it"
            );
        }
        let path = self.root.join("serve.lock");
        let file = disk
            .open(&path, OpenMode::Create)
            .with_context(|| format!("failed to open `{}`: is the data directory yours?", path.display()))?;
        ensure!(
            file.try_lock().with_context(|| format!("failed to lock `{}`", path.display()))?,
            "another gridwire serves the data directory `{}`; stop it, or choose another with --data-dir",
            self.root.display()
        );
        // A server that was killed leaves its addresses behind.
        self.remove_addresses()?;
        Ok(file)
    }

    /// Permission bits of the directory.
    pub(crate) fn mode(&self) -> anyhow::Result<u32> {
        let metadata = fs::metadata(&self.root)
            .with_context(|| format!("failed to look at the data directory `{}`", self.root.display()))?;
        Ok(metadata.permissions().mode() & 0o777)
    }

    /// Says where the server listens; only once it is ready.
    pub(crate) fn write_addresses(&self, addresses: &Addresses) -> anyhow::Result<()> {
        let text = serde_json::to_string(addresses).context("failed to write down the addresses")?;
        write_private(&self.addresses_file(), format!("{text}\n").as_bytes())
    }

    pub(crate) fn remove_addresses(&self) -> anyhow::Result<()> {
        let path = self.addresses_file();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("failed to remove `{}`", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Where the running server listens; `None` when none runs.
    pub(crate) fn read_addresses(&self) -> anyhow::Result<Option<Addresses>> {
        let path = self.addresses_file();
        let Some(text) = read_if_there(&path)? else { return Ok(None) };
        let addresses = serde_json::from_str(&text)
            .with_context(|| format!("failed to understand `{}`", path.display()))?;
        Ok(Some(addresses))
    }

    /// The management token on file; `None` when there is none.
    pub(crate) fn read_token(&self) -> anyhow::Result<Option<String>> {
        Ok(read_if_there(&self.token_file())?.map(|text| text.trim().to_owned()))
    }

    /// The management token: the one on file, or a new one.
    pub(crate) fn token(&self, rng: &dyn Rng) -> anyhow::Result<String> {
        let path = self.token_file();
        if let Some(token) = self.read_token()? {
            check_token(&token).map_err(|why| anyhow::anyhow!("`{}` {why}", path.display()))?;
            return Ok(token);
        }
        let mut bytes = [0; 32];
        rng.fill(&mut bytes);
        let token = URL_SAFE_NO_PAD.encode(bytes);
        write_private(&path, format!("{token}\n").as_bytes())?;
        Ok(token)
    }

    /// The secrets on file, or new ones at the first start.
    pub(crate) fn secrets(&self, rng: &dyn Rng) -> anyhow::Result<Secrets> {
        let path = self.secrets_file();
        if let Some(text) = read_if_there(&path)? {
            let find = |name: &str| {
                let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
                <[u8; 32]>::try_from(URL_SAFE_NO_PAD.decode(value.trim()).ok()?).ok()
            };
            let (Some(token), Some(master)) = (find("token"), find("master")) else {
                bail!(
                    "`{}` is damaged: restore it from a backup; without it the stored keys cannot be read",
                    path.display()
                );
            };
            return Ok(Secrets { token, master });
        }
        let mut secrets = Secrets { token: [0; 32], master: [0; 32] };
        rng.fill(&mut secrets.token);
        rng.fill(&mut secrets.master);
        let text = format!(
            "# Gridwire made these at its first start. Back them up with the rest of this directory;\n\
             # never show them: whoever has them can read every access key stored here.\n\
             token={}\nmaster={}\n",
            URL_SAFE_NO_PAD.encode(secrets.token),
            URL_SAFE_NO_PAD.encode(secrets.master),
        );
        write_private(&path, text.as_bytes())?;
        Ok(secrets)
    }
}

/// What is wrong with a management token, as the end of a sentence about it. Never shows the token.
pub(crate) fn check_token(token: &str) -> Result<(), String> {
    if token.len() < TOKEN_LENGTH_MIN {
        return Err(format!("must hold at least {TOKEN_LENGTH_MIN} characters"));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("must hold visible ASCII characters only".to_owned());
    }
    Ok(())
}

/// A new directory, with missing parents, that only its owner may enter; fine when it is there.
pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The text of a file; `None` when there is no such file.
pub(crate) fn read_if_there(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("failed to read `{}`", path.display())),
    }
}

/// Replaces a file that only its owner may read: written aside, flushed, renamed, so that a reader sees the
/// old one or the new one and a crash leaves either.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let write = || {
        let aside = path.with_extension("new");
        // Left over from a crash, perhaps with other permissions.
        let _ = fs::remove_file(&aside);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&aside, path)?;
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => fs::File::open(parent)?.sync_all(),
            _ => Ok(()),
        }
    };
    write().with_context(|| format!("failed to write `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use gridwire_outside::system::{SystemDisk, SystemRng};

    use super::*;

    #[test]
    fn a_data_directory_is_private_and_keeps_its_secrets() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::at(parent.path().join("a/b"));
        let rng = SystemRng::new();
        let _lock = dir.take(&SystemDisk).unwrap();
        assert_eq!(dir.mode().unwrap(), 0o700);

        let token = dir.token(&rng).unwrap();
        let secrets = dir.secrets(&rng).unwrap();
        assert_eq!(dir.token(&rng).unwrap(), token);
        assert_eq!(dir.secrets(&rng).unwrap().master, secrets.master);
        for file in [dir.token_file(), dir.secrets_file()] {
            assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn one_process_at_a_time_serves_a_directory() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::at(parent.path());
        let lock = dir.take(&SystemDisk).unwrap();
        let error = dir.take(&SystemDisk).unwrap_err();
        assert!(error.to_string().contains("another gridwire"), "{error}");
        drop(lock);
        dir.take(&SystemDisk).unwrap();
    }

    #[test]
    fn addresses_are_there_from_ready_to_stop_only() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::at(parent.path());
        assert_eq!(dir.read_addresses().unwrap(), None);
        let addresses =
            Addresses { http: "127.0.0.1:1".into(), https: "127.0.0.1:2".into(), admin: "[::1]:3".into() };
        dir.write_addresses(&addresses).unwrap();
        assert_eq!(dir.read_addresses().unwrap(), Some(addresses));
        // The next start clears what a killed server left.
        let _lock = dir.take(&SystemDisk).unwrap();
        assert_eq!(dir.read_addresses().unwrap(), None);
    }

    #[test]
    fn a_damaged_secrets_file_is_not_replaced() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::at(parent.path());
        fs::write(dir.secrets_file(), "token=short\n").unwrap();
        assert!(dir.secrets(&SystemRng::new()).unwrap_err().to_string().contains("damaged"));
    }

    #[test]
    fn a_weak_token_is_refused() {
        assert!(check_token("secret").is_err());
        assert!(check_token("with a blank in the middle").is_err());
        assert!(check_token("0123456789abcdef").is_ok());
    }
}
