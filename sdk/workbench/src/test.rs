//! `test`: the conformance suite against one plugin, on a scratch host.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use hutch_conformance::{Case, Report, Stand, Wanted};
use hutch_driver::Drivers;
use hutch_plugin::Workers;
use serde::Deserialize;

use crate::component::Which;
use crate::machine::Machine;
use crate::scratch::{Filesystem, Network};
use crate::{machine, runtime, scratch, serve};

/// The file in which a project says how its driver is tried.
const PROJECT: &str = "conformance.toml";

/// How the results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A line for each case, as it ends
    Text,
    /// One JSON document
    Json,
    /// XML as JUnit writes it
    Junit,
}

/// What `test` may be told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    which: Which,
    /// Run only the cases whose id contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Leave out the cases that strike at each step of a call
    #[arg(long)]
    quick: bool,
    /// Print the cases and run none
    #[arg(long)]
    list: bool,
    /// The driver, where the plugin provides several; the first of them otherwise
    #[arg(long, value_name = "NAME")]
    driver: Option<String>,
    /// Where pools lie; a storage driver that exports quota is tried on ext4 otherwise, any other in memory
    #[arg(long)]
    filesystem: Option<Filesystem>,
    /// An option of each pool, network, zone or request of the run
    #[arg(long = "option", value_name = "KEY=VALUE", value_parser = pair)]
    options: Vec<(String, String)>,
    /// An image that the source has, by its name there
    #[arg(long, value_name = "NAME")]
    image: Option<String>,
    /// The server that the source is asked for; none where it has no servers
    #[arg(long, value_name = "URL", conflicts_with = "serve")]
    server: Option<String>,
    /// Serve this folder over HTTP on the scratch host, and ask the source for that server
    #[arg(long, value_name = "FOLDER")]
    serve: Option<PathBuf>,
    /// A program with its arguments that prints what the backend of a zone driver shows of the zone {zone}, a record on each line
    #[arg(long, value_name = "COMMAND")]
    show: Option<String>,
    /// The network of the scratch host; the machine's is for sources that fetch from elsewhere, and images are built only there
    #[arg(long, default_value = "own")]
    network: Network,
    /// Run the plugin in a process of its own, as a daemon does with plugins that don't come with it
    #[arg(long)]
    worker: bool,
    /// How the results are written
    #[arg(long, default_value = "text")]
    format: Format,
    /// Write the results to this file, and for each case a line to the terminal
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// `KEY=VALUE`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it has no =")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Runs the suite. The exit status is a failure when a case failed.
///
/// # Errors
/// When the suite can't be run.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    match scratch::inside() {
        None => scratch::enter(options.network),
        Some(place) => {
            let path = options.which.path()?;
            let surroundings = Surroundings::read(options)?;
            // Before /run is another one. The file is open for as long as there are processes.
            let workers = options.worker.then(machine::workers).transpose()?;
            let (workers, _ids) = workers.map_or((None, None), |(workers, ids)| (Some(workers), Some(ids)));
            scratch::furnish(&place, options.network)?;
            surroundings.prepare()?;
            runtime()?.block_on(suite(options, surroundings, workers, &path, &place))
        }
    }
}

/// What a project says of how its driver is tried, in `conformance.toml` beside its manifest. The command line goes before it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Surroundings {
    /// Options of each pool, network, zone or request.
    options: BTreeMap<String, String>,
    /// An image that the source has.
    image: Option<String>,
    /// The server that it is asked for.
    server: Option<String>,
    /// A folder that is served.
    serve: Option<PathBuf>,
    /// A program with its arguments that is run to its end on the scratch host before the first case: what the driver talks to. What it
    /// leaves running ends with the scratch host.
    prepare: Vec<String>,
    /// What prints a zone.
    show: Vec<String>,
}

impl Surroundings {
    fn read(options: &Options) -> Result<Self> {
        let mut read: Self = match std::fs::read_to_string(PROJECT) {
            Ok(text) => toml::from_str(&text).with_context(|| format!("{PROJECT} is not what it should be"))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::default(),
            Err(error) => return Err(error).context(format!("can't read {PROJECT}")),
        };
        read.options.extend(options.options.iter().cloned());
        if options.server.is_some() || options.serve.is_some() {
            read.server.clone_from(&options.server);
            read.serve.clone_from(&options.serve);
        }
        read.image = options.image.clone().or(read.image);
        if let Some(line) = &options.show {
            read.show = line.split_whitespace().map(str::to_owned).collect();
        }
        if let Some(folder) = &read.serve {
            let found = std::fs::canonicalize(folder).with_context(|| format!("can't find {}", folder.display()))?;
            read.serve = Some(found);
        }
        Ok(read)
    }

    /// Runs what the project wants to have run.
    fn prepare(&self) -> Result<()> {
        let Some((program, arguments)) = self.prepare.split_first() else {
            return Ok(());
        };
        let mut command = std::process::Command::new(program);
        // The report goes to the standard output.
        let status = command.args(arguments).stdout(std::io::stderr()).status();
        let status = status.with_context(|| format!("can't run {program}, which {PROJECT} says prepares the run"))?;
        if !status.success() {
            bail!("{program}, which {PROJECT} says prepares the run, failed ({status})");
        }
        Ok(())
    }

    /// What an image source is asked for, with the server running where there is one.
    async fn image(&self) -> Result<Option<Wanted>> {
        let Some(name) = self.image.clone() else {
            return Ok(None);
        };
        let server = match &self.serve {
            Some(folder) => serve::start(folder.clone()).await?,
            None => self.server.clone().unwrap_or_default(),
        };
        Ok(Some(Wanted {
            server,
            name,
            folder: self.serve.clone(),
        }))
    }
}

async fn suite(
    options: &Options,
    told: Surroundings,
    workers: Option<Workers>,
    path: &Path,
    place: &Path,
) -> Result<ExitCode> {
    let machine = machine::start(path, place, workers).await?;
    scratch::places(place, &machine.plugin.requested.fs.paths)?;
    let (mut stand, surroundings) = stand(options, &machine, place)?;
    stand.image = told.image().await?;
    stand.options = told.options;
    stand.show = told.show;
    stand.builds = options.network == Network::Machine;
    let wanted = |case: &Case| {
        options
            .filter
            .as_ref()
            .is_none_or(|text| case.id.contains(text.as_str()))
    };
    let thorough = [".killed", ".host-error", ".denied", ".taken-back", ".no-leak"];
    let quick = |case: &Case| !(options.quick && thorough.iter().any(|end| case.id.ends_with(end)));
    let cases: Vec<Case> = hutch_conformance::suite(&stand)
        .into_iter()
        .filter(|case| wanted(case) && quick(case))
        .collect();
    if options.list {
        cases
            .iter()
            .for_each(|case| println!("{:<48} {}", case.id, case.proves));
        return Ok(ExitCode::SUCCESS);
    }
    if cases.is_empty() {
        bail!(
            "no case has {:?} in its id; --list shows them",
            options.filter.as_deref().unwrap_or_default()
        );
    }
    let surroundings = match options.worker {
        true => format!("{surroundings}, in a process of its own"),
        false => surroundings,
    };
    let lines = options.format == Format::Text || options.output.is_some();
    let mut report = Report {
        plugin: machine.plugin.id.clone(),
        version: machine.plugin.version.clone(),
        sha256: machine.plugin.digest.clone(),
        driver: format!("{}/{}", stand.family, stand.name),
        surroundings,
        results: Vec::new(),
    };
    for case in &cases {
        let begun = Instant::now();
        let verdict = case.run(&stand).await;
        let result = hutch_conformance::Result::new(&case.id, &case.proves, verdict, begun.elapsed());
        if lines {
            println!("{}", result.line());
        }
        report.results.push(result);
    }
    write(options, &report, lines)?;
    Ok(ExitCode::from(u8::from(report.count("failed") > 0)))
}

fn stand(options: &Options, machine: &Machine, place: &Path) -> Result<(Stand, String)> {
    let plugin = &machine.plugin;
    let names = &plugin.provides;
    let name = match &options.driver {
        None => names.first().context("the plugin provides nothing")?,
        Some(wanted) => names
            .iter()
            .find(|name| *name == wanted)
            .with_context(|| format!("the plugin provides {}, and no {wanted:?}", names.join(", ")))?,
    };
    let limits = plugin.family == "storage" && plugin.abilities.iter().any(|ability| ability == "quota");
    let usual = if limits { Filesystem::Ext4 } else { Filesystem::Tmpfs };
    let filesystem = options.filesystem.unwrap_or(usual);
    let scratch = place.join("scratch");
    let surroundings = scratch::filesystem(filesystem, &scratch)?;
    let drivers = Arc::clone(&machine.host) as Arc<dyn Drivers>;
    let mut stand = Stand::new(drivers, Arc::clone(&machine.faults), &plugin.family, name, scratch);
    stand.abilities.clone_from(&plugin.abilities);
    stand.permissions.clone_from(&plugin.requested);
    Ok((stand, surroundings))
}

fn write(options: &Options, report: &Report, lines: bool) -> Result<()> {
    let text = match options.format {
        Format::Text => {
            let lines: Vec<_> = report.results.iter().map(hutch_conformance::Result::line).collect();
            format!("{}\n{}\n", lines.join("\n"), report.summary())
        }
        Format::Json => format!("{}\n", report.json()?),
        Format::Junit => report.junit(),
    };
    match &options.output {
        Some(file) => std::fs::write(file, text).with_context(|| format!("can't write {}", file.display()))?,
        None if lines => {}
        None => std::io::stdout().lock().write_all(text.as_bytes())?,
    }
    if lines {
        println!("{}", report.summary());
    }
    Ok(())
}
