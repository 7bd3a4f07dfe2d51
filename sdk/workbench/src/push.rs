//! `push`: a plugin with its signature into an OCI registry, as `hutch_plugin::oci` has it lie there. The same file gives the same
//! manifest and so the same digest, whoever pushes it.

use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use hutch_plugin::digest_of;
use hutch_plugin::oci::{CONFIG_TYPE, LAYER_TYPE, MANIFEST_TYPE, Reference, SIGNATURE};
use minisign::SignatureBox;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, RegistryOperation};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::component::Which;
use crate::key;
use crate::sign::Component;

/// Bytes of the largest signature that a host takes.
const LARGEST_SIGNATURE: usize = 8 << 10;

/// What `push` may be told.
#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct Options {
    #[command(flatten)]
    which: Which,
    /// Where it goes: oci://HOST:PORT/NAME:TAG, or without the port
    #[arg(value_name = "ADDRESS")]
    address: String,
    /// The signature; without this, what lies beside the plugin with .minisig behind its name
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    /// Push it without a signature; who installs it has to waive one
    #[arg(long, conflicts_with = "signature")]
    unsigned: bool,
    /// Speak plain HTTP with the registry, as is done with one on this machine
    #[arg(long)]
    plain_http: bool,
    /// Who pushes; without this, as `docker login` or `podman login` left it, or nobody
    #[arg(long, value_name = "NAME", requires = "password_file")]
    username: Option<String>,
    /// The password or token of --username: the first line of this file
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
}

/// What is pushed.
struct Parcel {
    component: Component,
    config: Vec<u8>,
    manifest: Vec<u8>,
}

/// Pushes.
///
/// # Errors
/// When there is no plugin or no signature of it, or the registry does not take it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let place: Reference = options.address.parse()?;
    let Some(tag) = place.tag().filter(|_| place.digest().is_none()) else {
        bail!("a plugin is pushed under a tag: {place} names a digest");
    };
    let component = Component::read(&options.which)?;
    let signature = signature_of(&component, options)?;
    let parcel = Parcel::new(component, signature)?;
    let image = oci_client::Reference::with_tag(place.registry().to_owned(), place.name().to_owned(), tag.to_owned());
    let auth = auth(options, place.registry())?;
    let client = client(&place, options.plain_http)?;
    crate::runtime()?
        .block_on(parcel.send(&client, &image, &auth))
        .with_context(|| format!("can't push to {place}"))?;
    let manifest = &parcel.component.inspected.manifest;
    let pinned = place.pinned(&digest_of(&parcel.manifest));
    println!("{} {} is pushed: {pinned}", manifest.id, manifest.version);
    Ok(())
}

fn client(place: &Reference, plain_http: bool) -> Result<Client> {
    // As everywhere here; whoever was first in this process has chosen one that is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = ClientConfig {
        protocol: if plain_http || place.is_local() {
            ClientProtocol::Http
        } else {
            ClientProtocol::Https
        },
        user_agent: concat!("hutch/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    };
    Client::try_from(config).context("can't set up HTTP")
}

/// The signature that belongs to the file, if it goes with one.
fn signature_of(component: &Component, options: &Options) -> Result<Option<String>> {
    if options.unsigned {
        return Ok(None);
    }
    let path = options.signature.clone().unwrap_or_else(|| component.signature());
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
            "{} is not there: `hutch plugin sign` makes it, and --unsigned goes without",
            path.display()
        ),
        Err(error) => return Err(error).with_context(|| format!("can't read {}", path.display())),
    };
    ensure!(
        text.len() <= LARGEST_SIGNATURE,
        "{} is too large for a signature",
        path.display()
    );
    let signature = SignatureBox::from_string(&text).with_context(|| format!("{} is no signature", path.display()))?;
    let comment = signature.trusted_comment()?;
    let signed = comment.split_whitespace().find_map(|word| word.strip_prefix("sha256:"));
    ensure!(
        signed.is_none_or(|signed| signed == component.digest),
        "{} is of another file (sha256:{}): sign this one again",
        path.display(),
        signed.unwrap_or_default()
    );
    Ok(Some(text))
}

/// In whose name it is pushed.
fn auth(options: &Options, registry: &str) -> Result<RegistryAuth> {
    if let (Some(name), Some(file)) = (&options.username, &options.password_file) {
        return Ok(RegistryAuth::Basic(name.clone(), key::first_line(file)?));
    }
    let finders = [
        docker_credential::get_podman_credential,
        docker_credential::get_credential,
    ];
    for find in finders {
        match find(registry) {
            Ok(DockerCredential::UsernamePassword(name, password)) => return Ok(RegistryAuth::Basic(name, password)),
            Ok(DockerCredential::IdentityToken(_)) => bail!(
                "`docker login` left an identity token for {registry}, which is not taken: give --username and --password-file"
            ),
            // There are none, or there is no file of them.
            Err(
                CredentialRetrievalError::NoCredentialConfigured
                | CredentialRetrievalError::ConfigNotFound
                | CredentialRetrievalError::ConfigReadError,
            ) => {}
            Err(error) if is_nobody(&error) => {}
            Err(error) => return Err(error).with_context(|| format!("can't find out who pushes to {registry}")),
        }
    }
    Ok(RegistryAuth::Anonymous)
}

/// Whether a credential helper says that it knows nobody there: with this text on its standard output, and a status that is not 0
/// (<https://github.com/docker/docker-credential-helpers>, `credentials/error.go`).
fn is_nobody(error: &CredentialRetrievalError) -> bool {
    let CredentialRetrievalError::HelperFailure { stdout, .. } = error else {
        return false;
    };
    stdout.trim().starts_with("credentials not found")
}

impl Parcel {
    fn new(component: Component, signature: Option<String>) -> Result<Self> {
        let inspected = &component.inspected;
        let created = created(&component)?;
        let layer = format!("sha256:{}", component.digest);
        let config = json!({
            "created": created,
            "architecture": "wasm",
            "os": "wasip2",
            "layerDigests": [layer],
            "component": { "exports": inspected.exports, "imports": inspected.imports, "target": inspected.manifest.world },
        });
        let config = serde_json::to_vec(&config)?;
        let manifest = &inspected.manifest;
        let mut annotations = json!({
            "org.opencontainers.image.created": created,
            "org.opencontainers.image.title": manifest.id,
            "org.opencontainers.image.version": manifest.version,
            "org.opencontainers.image.licenses": manifest.license,
            "org.opencontainers.image.description": manifest.description,
        });
        if let Some(signature) = signature {
            annotations[SIGNATURE] = signature.into();
        }
        let config_digest = format!("sha256:{}", digest_of(&config));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": { "mediaType": CONFIG_TYPE, "digest": config_digest, "size": config.len() },
            "layers": [{ "mediaType": LAYER_TYPE, "digest": layer, "size": component.bytes.len() }],
            "annotations": annotations,
        });
        Ok(Self {
            config,
            manifest: serde_json::to_vec(&manifest)?,
            component,
        })
    }

    /// Blobs first, then what names them: a registry takes no manifest whose blobs it has not.
    async fn send(&self, client: &Client, image: &oci_client::Reference, auth: &RegistryAuth) -> Result<()> {
        client.store_auth_if_needed(image.resolve_registry(), auth).await;
        client.auth(image, auth, RegistryOperation::Push).await?;
        for blob in [&self.component.bytes, &self.config] {
            let digest = format!("sha256:{}", digest_of(blob));
            if !client.blob_exists(image, &digest).await? {
                client.push_blob(image, blob.clone(), &digest).await?;
            }
        }
        client
            .push_manifest_raw(image, self.manifest.clone(), MANIFEST_TYPE.parse()?)
            .await?;
        Ok(())
    }
}

/// When the file was made: `SOURCE_DATE_EPOCH` (<https://reproducible-builds.org/specs/source-date-epoch/>), or its last change.
fn created(component: &Component) -> Result<String> {
    let seconds: i64 = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text.parse().context("SOURCE_DATE_EPOCH is no number of seconds")?,
        Err(_) => {
            let changed = std::fs::metadata(&component.path).and_then(|metadata| metadata.modified())?;
            i64::try_from(changed.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())?
        }
    };
    Ok(OffsetDateTime::from_unix_timestamp(seconds)?.format(&Rfc3339)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_that_knows_nobody_is_no_failure() {
        let failure = |stdout: &str| CredentialRetrievalError::HelperFailure {
            helper: "docker-credential-x".to_owned(),
            stdout: stdout.to_owned(),
            stderr: String::new(),
        };
        assert!(is_nobody(&failure("credentials not found in native keychain\n")));
        assert!(!is_nobody(&failure("the keychain is locked: credentials not found")));
        assert!(!is_nobody(&failure("")));
        assert!(!is_nobody(&CredentialRetrievalError::MalformedHelperResponse));
    }
}
