//! Checks of what plugins answer. A plugin is not trusted with the shape of a path or the size of a list: what fails here
//! becomes an error that names it, and nothing of it reaches the core.
//!
//! Each check answers with what is wrong, in words for the error.

use std::collections::BTreeMap;

use hutch_driver::{Call, MountPlan, Options, TreePath};

use crate::bindings::host::types as wit;

/// Lines in words about work that was done.
const MAX_REPORT: usize = 10_000;
/// Bytes of a text that only people read.
const MAX_TEXT: usize = 4096;
const MAX_OPTIONS: usize = 512;
const MAX_KEY: usize = 256;
const MAX_VALUE: usize = 64 << 10;
/// `PATH_MAX` of Linux, from `limits.h`.
const MAX_PATH: usize = 4096;
/// Lower layers of one overlay (`OVL_MAX_STACK` in the kernel's `fs/overlayfs/params.h`), of which one place is the upper's.
const MAX_LAYERS: usize = 500;

pub(super) fn options(answer: wit::Options) -> Result<Options, String> {
    if answer.len() > MAX_OPTIONS {
        return Err(format!("{} options, and {MAX_OPTIONS} are allowed", answer.len()));
    }
    let mut options = BTreeMap::new();
    for (key, value) in answer {
        if key.is_empty() || key.len() > MAX_KEY || key.chars().any(char::is_control) {
            return Err(format!("{:?} can't be a key", shortened(&key)));
        }
        if value.len() > MAX_VALUE || value.contains('\0') {
            return Err(format!("the value of {key} is too long or has a zero byte"));
        }
        if options.contains_key(&key) {
            return Err(format!("the key {key} twice"));
        }
        options.insert(key, value);
    }
    Ok(options)
}

/// A path relative to something, without `..` and what else a path may hide.
pub(super) fn relative(path: &str, may_be_empty: bool) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("the path {:?}, which {what}", shortened(path)));
    if path.is_empty() {
        return if may_be_empty { Ok(()) } else { wrong("is empty") };
    }
    if path.len() > MAX_PATH || path.split('/').any(|part| part.len() > 255) {
        return wrong("is too long");
    }
    if path.contains('\0') {
        return wrong("has a zero byte");
    }
    if path.starts_with('/') {
        return wrong("is absolute");
    }
    if path
        .split('/')
        .any(|part| part.is_empty() || part == "." || part == "..")
    {
        return wrong("has an empty part, . or ..");
    }
    Ok(())
}

/// A place below one of the roots of the call: an answer can't point at another's.
pub(super) fn tree_path(call: &Call, answer: wit::TreePath) -> Result<TreePath, String> {
    if !call.roots.iter().any(|root| root.id == answer.root) {
        return Err(format!(
            "a path below {:?}, which is no root of this call",
            shortened(&answer.root)
        ));
    }
    relative(&answer.path, true)?;
    Ok(TreePath {
        root: answer.root,
        path: answer.path,
    })
}

pub(super) fn mount_plan(call: &Call, answer: wit::MountPlan) -> Result<MountPlan, String> {
    let layers = answer.layers.len();
    match answer.kind.as_str() {
        "bind" if layers != 1 || answer.upper.is_some() || answer.work.is_some() => {
            return Err("a bind plan with other than one layer".to_owned());
        }
        "overlay" if layers == 0 || layers > MAX_LAYERS || answer.upper.is_some() != answer.work.is_some() => {
            return Err(format!(
                "an overlay plan with {layers} layers (1 to {MAX_LAYERS} are possible), or one of upper and work alone"
            ));
        }
        "bind" | "overlay" => {}
        other => return Err(format!("a plan of the kind {:?}", shortened(other))),
    }
    let plan = MountPlan {
        kind: answer.kind,
        layers: answer
            .layers
            .into_iter()
            .map(|layer| tree_path(call, layer))
            .collect::<Result<_, _>>()?,
        upper: answer.upper.map(|upper| tree_path(call, upper)).transpose()?,
        work: answer.work.map(|work| tree_path(call, work)).transpose()?,
        options: options(answer.options)?,
    };
    // What is written to must not be what is shared read-only, nor the overlay's own scratch place.
    if let (Some(upper), Some(work)) = (&plan.upper, &plan.work)
        && (upper.root != work.root
            || inside(upper, work)
            || inside(work, upper)
            || plan.layers.iter().any(|l| inside(l, upper)))
    {
        return Err("an overlay plan whose upper, work and layers lie within one another".to_owned());
    }
    Ok(plan)
}

/// Whether `inner` is `outer` or below it.
fn inside(inner: &TreePath, outer: &TreePath) -> bool {
    inner.root == outer.root
        && (outer.path.is_empty()
            || inner
                .path
                .strip_prefix(&outer.path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// What was done, in words.
pub(super) fn report(answer: Vec<String>) -> Result<Vec<String>, String> {
    if answer.len() > MAX_REPORT {
        return Err(format!("{} lines, and {MAX_REPORT} are allowed", answer.len()));
    }
    Ok(answer.iter().map(|line| crate::log::one_line(line, MAX_TEXT)).collect())
}

/// A short text of one line that is used as a name of something.
pub(super) fn word(what: &str, text: &str, most: usize, may_be_empty: bool) -> Result<(), String> {
    if text.is_empty() && !may_be_empty {
        return Err(format!("an empty {what}"));
    }
    if text.len() > most || text.chars().any(|c| c.is_control() || c == '/') {
        return Err(format!("the {what} {:?}", shortened(text)));
    }
    Ok(())
}

/// A SHA-256 in lower-case hexadecimal.
pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// A text as an error may quote it.
pub(super) fn shortened(text: &str) -> String {
    crate::log::one_line(text, 80)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn call() -> Call {
        let mut call = Call::new("default", "pool");
        call.roots.push(hutch_driver::Root {
            id: "pool".into(),
            path: PathBuf::from("/nowhere"),
            writable: true,
        });
        call
    }

    fn at(root: &str, path: &str) -> wit::TreePath {
        wit::TreePath {
            root: root.into(),
            path: path.into(),
        }
    }

    fn overlay(layers: &[&str], upper: &str, work: &str) -> wit::MountPlan {
        wit::MountPlan {
            kind: "overlay".into(),
            layers: layers.iter().map(|path| at("pool", path)).collect(),
            upper: Some(at("pool", upper)),
            work: Some(at("pool", work)),
            options: Vec::new(),
        }
    }

    #[test]
    fn paths_stay_below_their_root() {
        for path in ["", "a", "a/b.c", "..a", "a..", "ä"] {
            assert!(tree_path(&call(), at("pool", path)).is_ok(), "{path}");
        }
        for path in [
            "..", "../a", "a/..", "a/../b", "/a", "a//b", "a/", "./a", "a/./b", "a\0b",
        ] {
            assert!(tree_path(&call(), at("pool", path)).is_err(), "{path}");
        }
        assert!(tree_path(&call(), at("other", "a")).is_err());
        assert!(tree_path(&call(), at("pool", &"a/".repeat(3000))).is_err());
        assert!(relative("", false).is_err());
    }

    #[test]
    fn plans_are_possible_ones() {
        assert!(mount_plan(&call(), overlay(&["l1", "l2"], "v/upper", "v/work")).is_ok());
        let bind = wit::MountPlan {
            kind: "bind".into(),
            upper: None,
            work: None,
            ..overlay(&["v"], "", "")
        };
        assert!(mount_plan(&call(), bind.clone()).is_ok());
        let lone_upper = wit::MountPlan {
            work: None,
            ..overlay(&["l"], "u", "w")
        };
        for plan in [
            overlay(&[], "u", "w"),
            overlay(&["l"], "u", "u"),
            overlay(&["l"], "u", "u/w"),
            overlay(&["u/l"], "u", "w"),
            overlay(&["../l"], "u", "w"),
            overlay(&["l"; MAX_LAYERS + 1], "u", "w"),
            lone_upper,
            wit::MountPlan {
                kind: "bind".into(),
                ..overlay(&["v"], "u", "w")
            },
            wit::MountPlan {
                kind: "zfs".into(),
                ..bind
            },
        ] {
            assert!(mount_plan(&call(), plan).is_err());
        }
    }

    #[test]
    fn options_are_unique_and_bounded() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(options(vec![pair("a", "1"), pair("b", "")]).map(|o| o.len()), Ok(2));
        assert!(options(vec![pair("a", "1"), pair("a", "2")]).is_err());
        assert!(options(vec![pair("", "1")]).is_err());
        assert!(options(vec![pair("a\n", "1")]).is_err());
        assert!(options(vec![pair("a", &"x".repeat(MAX_VALUE + 1))]).is_err());
        assert!(options((0..=MAX_OPTIONS).map(|i| pair(&i.to_string(), "")).collect()).is_err());
    }
}
