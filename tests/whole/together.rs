//! Several operators at once, who install plugins: each is there whole or not at all, and nobody's choice is lost.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::Daemon;
use hutch_tests::stock::Stock;
use hutch_tests::variant::Variant;
use serde_json::Value;
use std::path::PathBuf;

/// Who install at once.
const OPERATORS: usize = 6;

/// Each operator installs one file, all at once; the answers in the files' order.
fn install(daemon: &Daemon, files: &[PathBuf]) -> Result<Vec<std::result::Result<(), String>>> {
    let hutch = Stock::hutch(daemon)?;
    std::thread::scope(|scope| {
        let operators: Vec<_> = files
            .iter()
            .map(|file| scope.spawn(|| hutch.run(&["plugin", "install", &file.to_string_lossy(), "--yes"])))
            .collect();
        operators
            .into_iter()
            .map(|operator| {
                let answer = operator.join().map_err(|_| anyhow::anyhow!("an operator panicked"))?;
                Ok(answer.map(drop).map_err(|error| format!("{error:#}")))
            })
            .collect()
    })
}

/// The installed plugins that are enabled or, right after a start, on their way to it, each with its version, sorted.
fn installed(daemon: &Daemon) -> Result<Vec<(String, String)>> {
    let listed = daemon.client().get("/1.0/plugins?recursion=1")?;
    let listed = listed.as_array().context("the list of plugins is none")?;
    let text = |plugin: &Value, key: &str| plugin[key].as_str().unwrap_or_default().to_owned();
    let mut found: Vec<_> = listed
        .iter()
        .filter(|plugin| plugin["origin"] == "installed")
        .filter(|plugin| plugin["state"] == "enabled" || plugin["state"] == "loading")
        .map(|plugin| (text(plugin, "id"), text(plugin, "version")))
        .collect();
    found.sort();
    Ok(found)
}

#[test]
fn what_several_install_at_once_is_there_whole() -> Result<()> {
    let mut daemon = Daemon::start()?;
    let place = daemon.sandbox().path().to_owned();

    // Different plugins: none of them overwrites the record of another.
    let names: Vec<_> = (0..OPERATORS).map(|number| format!("many{number}")).collect();
    let files: Vec<_> = names
        .iter()
        .map(|name| Variant::storage(name, "1.0.0").write(&place))
        .collect::<Result<_>>()?;
    for (name, answer) in names.iter().zip(install(&daemon, &files)?) {
        ensure!(answer.is_ok(), "{name}: {answer:?}");
    }
    ensure!(installed(&daemon)?.len() == OPERATORS, "{:?}", installed(&daemon)?);

    // One file: whoever comes second finds it as it is to be.
    let same = vec![Variant::storage("same", "1.0.0").write(&place)?; OPERATORS];
    for answer in install(&daemon, &same)? {
        ensure!(answer.is_ok(), "{answer:?}");
    }

    // Versions of one plugin: one is installed, and the others are told of it.
    let versions: Vec<_> = (0..OPERATORS)
        .map(|number| Variant::storage("one", &format!("1.{number}.0")).write(&place))
        .collect::<Result<_>>()?;
    let answers = install(&daemon, &versions)?;
    let won: Vec<_> = answers
        .iter()
        .enumerate()
        .filter(|(_, answer)| answer.is_ok())
        .collect();
    let [(winner, _)] = won.as_slice() else {
        anyhow::bail!("not one of them is installed: {answers:?}");
    };
    for refusal in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        for part in ["is there already", "`hutch plugin upgrade"] {
            ensure!(refusal.contains(part), "{refusal}");
        }
    }
    let here = installed(&daemon)?;
    let one = ("org.example.storage.one".to_owned(), format!("1.{winner}.0"));
    ensure!(here.contains(&one), "{here:?} has no {one:?}");

    // And so it is for the next daemon, killed right then.
    daemon.kill()?;
    daemon.launch(&[])?;
    ensure!(
        installed(&daemon)? == here,
        "{:?} and not {here:?}",
        installed(&daemon)?
    );
    Ok(())
}
