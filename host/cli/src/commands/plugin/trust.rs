//! `plugin trust`: whose signatures of plugins the daemon believes.

use std::path::Path;

use clap::{Args, Subcommand};
use hutch_api::plugin::{PluginKey, PluginKeysPost};
use hyper::Method;

use crate::client::{ApiPath, Progress};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::output::{self, FormatArg, Table, minute};

/// Bytes of the largest file with a key that is read; one has some hundred.
const LARGEST: u64 = 4096;

#[derive(Debug, Subcommand)]
pub(crate) enum TrustCommand {
    /// Trust a publisher's key
    Add {
        /// What the publisher is called here
        name: String,
        /// The public key in base64, or the file that minisign wrote it to
        key: String,
        /// The daemon
        #[arg(value_name = "REMOTE:")]
        remote: Option<String>,
    },
    /// List the keys, also those that were revoked
    #[command(alias = "ls")]
    List(TrustList),
    /// Revoke a key, or all keys of a publisher; plugins that are installed stay
    #[command(alias = "rm")]
    Remove {
        /// The key's id, or the publisher's name
        key: String,
        /// The daemon
        #[arg(value_name = "REMOTE:")]
        remote: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TrustList {
    /// The daemon
    #[arg(value_name = "REMOTE:")]
    remote: Option<String>,
    #[command(flatten)]
    format: FormatArg,
}

impl TrustCommand {
    /// Does it.
    pub(crate) async fn run(self, ctx: &Context) -> Result<()> {
        match self {
            Self::Add { name, key, remote } => {
                let target = ctx.daemon(remote.as_deref())?;
                let key = if Path::new(&key).is_file() {
                    read(Path::new(&key))?
                } else {
                    key
                };
                let post = PluginKeysPost { name, key };
                let path = ApiPath::new(["plugin-keys"]);
                target.client.send(Method::POST, path, &post, None).await?;
                Ok(())
            }
            Self::List(args) => {
                let target = ctx.daemon(args.remote.as_deref())?;
                let path = ApiPath::new(["plugin-keys"]).query("recursion", "1");
                let keys: Vec<PluginKey> = target.client.get(path).await?;
                output::print_list(args.format.format, &keys, |keys| {
                    let mut table = Table::new(["ID", "PUBLISHER", "STATE", "ADDED"]);
                    for key in keys {
                        let state = if key.revoked { "REVOKED" } else { "TRUSTED" };
                        table.row(vec![
                            key.id.clone(),
                            key.name.clone(),
                            state.to_owned(),
                            minute(key.added_at),
                        ]);
                    }
                    table
                })
            }
            Self::Remove { key, remote } => {
                let target = ctx.daemon(remote.as_deref())?;
                let path = ApiPath::new(["plugin-keys", &key]);
                target.client.remove(path, &Progress::hidden()).await?;
                Ok(())
            }
        }
    }
}

fn read(path: &Path) -> Result<String> {
    let failed = |error| Error::file("cannot read", path, error);
    if std::fs::metadata(path).map_err(failed)?.len() > LARGEST {
        return Err(Error::usage(format!("{} is too large for a key", path.display())));
    }
    std::fs::read_to_string(path).map_err(failed)
}
