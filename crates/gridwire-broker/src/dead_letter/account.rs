//! Storage accounts: dead letters as blobs, in Azure Blob Storage or in S3.
//!
//! What the blobs are called and what they hold does not differ from the directory's files. A failed call is not
//! repeated here: whoever asked has a ladder of waits for that, the same as for a disk.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use gridwire_outside::{Clock, Net};
use object_store::aws::AmazonS3Builder;
use object_store::azure::{MicrosoftAzureBuilder, split_sas};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, RetryConfig};

use super::container::Names;
use super::http::Connector;

/// Calls at a time for one batch of letters.
const CALLS_MAX: usize = 8;
/// Containers of one account that are remembered; forgotten all at once beyond it.
const CONTAINERS_MAX: usize = 1_000;

/// A storage account, as configured.
#[derive(Clone, PartialEq, Eq)]
pub struct AccountOptions {
    /// The last segment of its resource id.
    pub name: String,
    /// Its endpoint: `https://{account}.blob.core.windows.net`, `https://s3.eu-west-1.amazonaws.com`.
    pub url: String,
    pub kind: AccountKind,
}

/// Which service it is, and by what we may use it.
#[derive(Clone, PartialEq, Eq)]
pub enum AccountKind {
    /// By its access key.
    AzureKey(String),
    /// By a shared access signature, as in a query.
    AzureSas(String),
    S3 {
        region: String,
        key_id: String,
        secret: String,
    },
}

impl fmt::Debug for AccountOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whatever an operator put into the URL, it is not shown.
        f.debug_struct("AccountOptions").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for AccountKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AzureKey(_) | Self::AzureSas(_) => "Azure(***)",
            Self::S3 { .. } => "S3(***)",
        })
    }
}

/// One account.
#[derive(Debug)]
pub(super) struct Account {
    options: AccountOptions,
    connector: Connector,
    containers: Mutex<HashMap<String, Blobs>>,
}

/// One container of an account.
#[derive(Clone, Debug)]
pub(super) struct Blobs(Arc<dyn ObjectStore>);

impl Account {
    pub(super) fn new(options: AccountOptions, net: Arc<dyn Net>, clock: Arc<dyn Clock>) -> Self {
        Self { options, connector: Connector::new(net, clock), containers: Mutex::default() }
    }

    /// Its endpoint, which tells it from a directory and from other accounts of its name.
    pub(super) fn place(&self) -> String {
        self.options.url.clone()
    }

    pub(super) fn container(&self, name: &str) -> io::Result<Blobs> {
        let mut containers = self.containers.lock().expect("no panic while the containers are held");
        if let Some(blobs) = containers.get(name) {
            return Ok(blobs.clone());
        }
        if CONTAINERS_MAX <= containers.len() {
            containers.clear();
        }
        let blobs = Blobs(self.open(name).map_err(failed)?);
        containers.insert(name.to_owned(), blobs.clone());
        Ok(blobs)
    }

    fn open(&self, container: &str) -> object_store::Result<Arc<dyn ObjectStore>> {
        let AccountOptions { name, url, kind } = &self.options;
        let once = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let plain = url.starts_with("http://");
        let azure = || {
            MicrosoftAzureBuilder::new()
                .with_account(name)
                .with_endpoint(url.clone())
                .with_container_name(container)
                .with_allow_http(plain)
                .with_retry(once.clone())
                .with_http_connector(self.connector.clone())
        };
        Ok(match kind {
            AccountKind::AzureKey(key) => Arc::new(azure().with_access_key(key).build()?),
            AccountKind::AzureSas(sas) => Arc::new(azure().with_sas_authorization(split_sas(sas)?).build()?),
            AccountKind::S3 { region, key_id, secret } => Arc::new(
                AmazonS3Builder::new()
                    .with_endpoint(url)
                    .with_region(region)
                    .with_bucket_name(container)
                    .with_access_key_id(key_id)
                    .with_secret_access_key(secret)
                    .with_allow_http(plain)
                    .with_retry(once)
                    .with_http_connector(self.connector.clone())
                    .build()?,
            ),
        })
    }
}

/// The text of such an error holds no credential: signatures travel in headers, and a URL with one in it is left
/// out by the store.
fn failed(error: object_store::Error) -> io::Error {
    match error {
        object_store::Error::NotFound { .. } => io::Error::new(io::ErrorKind::NotFound, error),
        error => io::Error::other(error),
    }
}

/// `None` for what is not there.
fn found<T>(result: object_store::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

fn path(text: &str) -> io::Result<Path> {
    Path::parse(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

impl Blobs {
    /// Writes a blob whole; one of this name is replaced.
    pub(super) async fn write(&self, at: &str, content: Vec<u8>) -> io::Result<()> {
        self.0.put(&path(at)?, PutPayload::from(content)).await.map(drop).map_err(failed)
    }

    pub(super) async fn numbers(&self, dir: &str) -> io::Result<Vec<u16>> {
        let listed = self.0.list_with_delimiter(Some(&path(dir)?)).await.map_err(failed)?;
        let number = |prefix: &Path| {
            let name = prefix.filename()?;
            name.parse::<u16>().ok().filter(|number| number.to_string() == name)
        };
        let mut numbers: Vec<u16> = listed.common_prefixes.iter().filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The whole directory is gone through each time: not every Azure endpoint knows where to start from.
    pub(super) async fn names(&self, dir: &str, names: &Names) -> io::Result<Vec<String>> {
        let mut first = BTreeSet::new();
        let mut blobs = self.0.list(Some(&path(dir)?));
        while let Some(blob) = blobs.next().await {
            let blob = blob.map_err(failed)?;
            let Some(name) = blob.location.filename().filter(|name| names.picks(name)) else { continue };
            first.insert(name.to_owned());
            if names.max < first.len() {
                first.pop_last();
            }
        }
        Ok(first.into_iter().collect())
    }

    pub(super) async fn read(
        &self,
        paths: Vec<String>,
        bytes_max: usize,
        each_max: u64,
    ) -> io::Result<Vec<Option<Vec<u8>>>> {
        let reads = paths.into_iter().map(|at| async move {
            let Some(blob) = found(self.0.get(&path(&at)?).await)? else { return Ok(None) };
            if each_max < blob.meta.size {
                return Ok(Some(Vec::new()));
            }
            Ok::<_, io::Error>(Some(blob.bytes().await.map_err(failed)?.to_vec()))
        });
        let mut reads = futures_util::stream::iter(reads).buffered(CALLS_MAX);
        let (mut contents, mut bytes) = (Vec::new(), 0);
        while let Some(content) = reads.next().await {
            let content: Option<Vec<u8>> = content?;
            bytes += content.as_ref().map_or(0, Vec::len);
            contents.push(content);
            if bytes_max <= bytes {
                break;
            }
        }
        Ok(contents)
    }

    pub(super) async fn are_there(&self, paths: Vec<String>) -> io::Result<Vec<bool>> {
        let looks =
            paths.into_iter().map(|at| async move { Ok(found(self.0.head(&path(&at)?).await)?.is_some()) });
        self.together(looks).await
    }

    /// A blob cannot be renamed: it is copied, then the old one is deleted. A crash between the two leaves both,
    /// and the repeat deletes the old one.
    pub(super) async fn rename(&self, names: Vec<(String, String)>) -> io::Result<()> {
        let moves = names.into_iter().map(|(from, to)| async move {
            let (from, to) = (path(&from)?, path(&to)?);
            if found(self.0.copy(&from, &to).await)?.is_some() {
                found(self.0.delete(&from).await)?;
            }
            Ok(())
        });
        self.together(moves).await.map(drop)
    }

    pub(super) async fn remove(&self, paths: Vec<String>) -> io::Result<()> {
        let removes =
            paths.into_iter().map(|at| async move { found(self.0.delete(&path(&at)?).await).map(drop) });
        self.together(removes).await.map(drop)
    }

    async fn together<T>(
        &self,
        calls: impl Iterator<Item = impl Future<Output = io::Result<T>>>,
    ) -> io::Result<Vec<T>> {
        let results: Vec<io::Result<T>> =
            futures_util::stream::iter(calls).buffered(CALLS_MAX).collect().await;
        results.into_iter().collect()
    }
}
