//! `wit-rules FOLDER`: holds the WIT packages below a folder against the copies of those that were released (`FOLDER/released`),
//! and prints every change that a driver built against the released one could not bear.
//!
//! A program of its own, because it is the one chore that parses WIT, and the others are to be built quickly.

mod compare;
mod shape;
mod tree;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: wit-rules FOLDER");
        return ExitCode::from(2);
    };
    match check(&folder) {
        Ok(wrong) if wrong.is_empty() => ExitCode::SUCCESS,
        Ok(wrong) => {
            for line in wrong {
                eprintln!("{line}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("wit-rules: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Compares every package of the tree with the last release that drivers of its version may have been built against.
fn check(folder: &std::path::Path) -> Result<Vec<String>> {
    let tree = tree::Tree::read(folder)?;
    let mut wrong = Vec::new();
    for package in &tree.present {
        let Some(released) = tree.last_compatible_release(package) else {
            continue;
        };
        let shape = |package: &tree::Package| {
            tree.resolve(package).with_context(|| {
                format!(
                    "{}@{} in {}",
                    package.name,
                    package.version,
                    package.directory.display()
                )
            })
        };
        for change in compare::compare(&shape(released)?, &shape(package)?) {
            wrong.push(format!(
                "{}@{} can't be used by a driver that was built against {}: {change}",
                package.name, package.version, released.version
            ));
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with a host package and a family that uses it, both released as 0.1.0.
    struct Folder(tempfile::TempDir);

    const HOST: &str = "interface types { record error { code: string } }\n\
                        interface log { enum level { info, warn } write: func(level: level, text: string); }\n";
    const FAMILY: &str = "interface pool { use hutch:host/types@0.1.0.{error}; \
                          record space { used: u64 } look: func() -> result<space, error>; }\n";

    impl Folder {
        fn new() -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            for (name, body) in [("host", HOST), ("storage", FAMILY)] {
                folder.write(&format!("{name}/v0/{name}.wit"), name, "0.1.0", body);
                folder.write(&format!("released/{name}/0.1.0/{name}.wit"), name, "0.1.0", body);
            }
            folder
        }

        fn write(&self, path: &str, name: &str, version: &str, body: &str) {
            let path = self.0.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("package hutch:{name}@{version};\n{body}")).unwrap();
        }

        fn host(&self, version: &str, body: &str) -> Vec<String> {
            self.write("host/v0/host.wit", "host", version, body);
            check(self.0.path()).unwrap()
        }

        fn storage(&self, version: &str, body: &str) -> Vec<String> {
            self.write("storage/v0/storage.wit", "storage", version, body);
            check(self.0.path()).unwrap()
        }
    }

    #[test]
    fn what_was_released_passes() {
        assert_eq!(check(Folder::new().0.path()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn the_host_may_offer_more_functions() {
        let more = HOST.replace("write:", "flush: func(); write:");
        assert_eq!(Folder::new().host("0.1.1", &more), Vec::<String>::new());
        let interface = format!("{HOST}interface clock {{ now: func() -> u64; }}\n");
        assert_eq!(Folder::new().host("0.1.1", &interface), Vec::<String>::new());
    }

    #[test]
    fn the_host_takes_nothing_away_and_changes_nothing() {
        for (from, to, told) in [
            (
                "write: func(level: level, text: string);",
                "",
                "the function log.write is gone",
            ),
            (
                "text: string",
                "text: string, more: bool",
                "the function log.write was func(level: ",
            ),
            (
                "text: string",
                "words: string",
                "the function log.write was func(level: ",
            ),
            (
                "info, warn",
                "info, warn, error",
                "the type log.level was enum { info, warn }",
            ),
            (
                "code: string",
                "code: string, message: string",
                "the type types.error was record { code: string }",
            ),
            ("interface log", "interface logging", "the interface log is gone"),
        ] {
            let wrong = Folder::new().host("0.1.1", &HOST.replace(from, to));
            assert!(
                wrong.iter().any(|line| line.contains(told)),
                "{from} -> {to}: {wrong:?}"
            );
        }
    }

    #[test]
    fn an_exported_interface_gains_no_function_but_the_package_gains_interfaces() {
        let more = FAMILY.replace("look: func()", "count: func() -> u32; look: func()");
        let wrong = Folder::new().storage("0.1.1", &more);
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert!(
            wrong[0].contains("hutch:storage@0.1.1 can't be used by a driver that was built against 0.1.0"),
            "{wrong:?}"
        );
        assert!(
            wrong[0].contains("the function pool.count is new, and a driver without it could not be used"),
            "{wrong:?}"
        );
        let interface = format!("{FAMILY}interface quota {{ set: func(bytes: u64); }}\n");
        assert_eq!(Folder::new().storage("0.1.1", &interface), Vec::<String>::new());
    }

    #[test]
    fn a_version_is_held_to_the_one_before_also_once_it_is_released() {
        let more = FAMILY.replace("look: func()", "count: func() -> u32; look: func()");
        let folder = Folder::new();
        folder.write("released/storage/0.1.1/storage.wit", "storage", "0.1.1", &more);
        let wrong = folder.storage("0.1.1", &more);
        assert!(
            wrong.iter().any(|line| line.contains("the function pool.count is new")),
            "{wrong:?}"
        );
    }

    #[test]
    fn a_version_that_may_break_is_compared_with_none_before_it() {
        assert_eq!(
            Folder::new().storage("0.2.0", "interface pool { other: func(); }\n"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_package_is_compared_with_the_last_of_its_releases() {
        let folder = Folder::new();
        let more = HOST.replace("write:", "flush: func(); write:");
        folder.write("released/host/0.1.1/host.wit", "host", "0.1.1", &more);
        let wrong = folder.host("0.1.2", HOST);
        assert!(
            wrong
                .iter()
                .any(|line| line.contains("built against 0.1.1: the function log.flush is gone")),
            "{wrong:?}"
        );
    }

    #[test]
    fn what_a_family_takes_from_the_host_is_told_by_its_version() {
        let folder = Folder::new();
        let changed = HOST.replace("code: string", "code: u32");
        folder.write("host/v1/host.wit", "host", "1.0.0", &changed);
        let wrong = folder.storage("0.1.1", &FAMILY.replace("types@0.1.0", "types@1.0.0"));
        assert!(
            wrong
                .iter()
                .any(|line| line.contains("hutch:host@0.1/types.error") && line.contains("hutch:host@1/types.error")),
            "{wrong:?}"
        );
    }

    #[test]
    fn the_packages_of_this_tree_are_readable() {
        let tree = tree::Tree::read(std::path::Path::new("../../wit")).unwrap();
        for package in &tree.present {
            tree.resolve(package).unwrap();
        }
        assert_eq!(check(std::path::Path::new("../../wit")).unwrap(), Vec::<String>::new());
    }
}
