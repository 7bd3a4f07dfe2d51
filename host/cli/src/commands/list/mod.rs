//! `list`: instances.

mod columns;
mod filter;

use clap::Args;
use hutch_api::instance::{Instance, InstanceFull};
use serde_json::Value;

use crate::client::ApiPath;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::output::{self, Format, FormatArg, Table};
use columns::Column;

/// What is shown unless told otherwise.
const DEFAULT: &str = "ns46tS";
/// What is shown with `--fast`: nothing that the daemon has to look at the instances for.
const FAST: &str = "nsacPt";

#[derive(Debug, Args)]
#[command(after_help = columns::HELP)]
pub(crate) struct ListArgs {
    /// A daemon, and what the instances must be like: the beginning of a name (or a pattern with *), or KEY=VALUE with a
    /// key of their configuration, or type, status, architecture, location, ipv4, ipv6
    #[arg(value_name = "[REMOTE:] FILTER")]
    filters: Vec<String>,
    /// Which columns to show, by their letters; see below
    #[arg(short, long, value_name = "COLUMNS")]
    columns: Option<String>,
    /// Show only what the daemon knows without looking (the same as -c nsacPt)
    #[arg(long, conflicts_with = "columns")]
    fast: bool,
    /// Instances of all projects
    #[arg(long)]
    all_projects: bool,
    #[command(flatten)]
    format: FormatArg,
}

/// Lists instances.
pub(crate) async fn list(ctx: &Context, args: ListArgs) -> Result<()> {
    let (target, filters) = ctx.daemon_and_rest(&args.filters)?;
    let filters = filter::parse(&filters)?;
    let letters = match (&args.columns, args.fast) {
        (Some(letters), _) => letters.clone(),
        (None, true) => FAST.into(),
        (None, false) => DEFAULT.into(),
    };
    let mut columns = columns::parse(&letters)?;
    if args.all_projects && !columns.iter().any(Column::is_project) {
        columns.insert(0, Column::project());
    }
    // JSON and YAML are of whole instances, unless speed was asked for.
    let objects = matches!(args.format.format, Format::Json | Format::Yaml);
    let full = columns.iter().any(Column::needs_state) || filters.iter().any(filter::Filter::needs_state);
    let full = full || (objects && !args.fast);
    let path = ApiPath::new(["instances"])
        .query("recursion", if full { "2" } else { "1" })
        .of_all_projects(args.all_projects);
    // Kept as they came for JSON and YAML, since a newer daemon may tell more than this program knows.
    let values: Vec<Value> = target.client.get(path).await?;
    let mut instances = Vec::with_capacity(values.len());
    for value in values {
        let instance = read(&value, full)?;
        if filters.iter().all(|filter| filter.matches(&instance)) {
            instances.push((instance, value));
        }
    }
    instances.sort_by(|(a, _), (b, _)| {
        (&a.instance.project, &a.instance.name).cmp(&(&b.instance.project, &b.instance.name))
    });
    let (instances, values): (Vec<_>, Vec<_>) = instances.into_iter().unzip();
    output::print_list(args.format.format, &values, |_| {
        let mut table = Table::new(columns.iter().map(Column::title));
        for instance in &instances {
            table.row(columns.iter().map(|column| column.value(instance)).collect());
        }
        table
    })
}

fn read(value: &Value, full: bool) -> Result<InstanceFull> {
    use serde::Deserialize;
    let read = if full {
        InstanceFull::deserialize(value)
    } else {
        Instance::deserialize(value).map(|instance| InstanceFull {
            instance,
            ..InstanceFull::default()
        })
    };
    read.map_err(|source| Error::Answer {
        request: "GET /1.0/instances".into(),
        source,
    })
}
