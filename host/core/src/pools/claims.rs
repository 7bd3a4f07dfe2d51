//! Which trees of pools are roots of containers at this moment. A driver has its pool's tree to itself, so a mistake of its could
//! give one container what another writes to; a plan that does is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use hutch_container::RootFs;

/// All trees that are in use, with who uses them.
#[derive(Debug, Default)]
pub(crate) struct Claims(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    last: u64,
    uses: BTreeMap<PathBuf, Vec<Use>>,
}

#[derive(Debug)]
struct Use {
    claim: u64,
    who: Arc<str>,
    writes: bool,
}

/// The trees of one container; they are free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    claims: Arc<Claims>,
    number: u64,
    trees: Vec<PathBuf>,
}

/// Why trees can't be given out: one of them is somebody else's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("names {}, which lies where {who} has its root", tree.display())]
pub(crate) struct Taken {
    tree: PathBuf,
    who: String,
}

impl Claims {
    /// Takes the trees of `root` for `who`. What is only read may be shared; what is written to may not, neither with who reads
    /// nor with who writes it, and not in part.
    pub(crate) fn take(self: &Arc<Self>, who: &str, root: &RootFs) -> Result<Claim, Taken> {
        let wanted: Vec<(&Path, bool)> = match root {
            RootFs::Bind { path } => vec![(path, true)],
            RootFs::Overlay { layers, upper, work } => [(upper.as_path(), true), (work.as_path(), true)]
                .into_iter()
                .chain(layers.iter().map(|layer| (layer.as_path(), false)))
                .collect(),
        };
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (tree, writes) in &wanted {
            if let Some(other) = table.conflict(tree, *writes) {
                return Err(Taken {
                    tree: (*tree).to_owned(),
                    who: other.who.to_string(),
                });
            }
        }
        table.last += 1;
        let number = table.last;
        let who: Arc<str> = who.into();
        for (tree, writes) in &wanted {
            table.uses.entry((*tree).to_owned()).or_default().push(Use {
                claim: number,
                who: Arc::clone(&who),
                writes: *writes,
            });
        }
        Ok(Claim {
            claims: Arc::clone(self),
            number,
            trees: wanted.into_iter().map(|(tree, _)| tree.to_owned()).collect(),
        })
    }
}

impl Table {
    /// Who uses `tree`, something above or something below it, so that the two can't be.
    fn conflict(&self, tree: &Path, writes: bool) -> Option<&Use> {
        let above = tree.ancestors().filter_map(|place| self.uses.get(place));
        // Paths are ordered by their components, so that what is below follows at once.
        let below = self
            .uses
            .range(tree.to_owned()..)
            .take_while(|(place, _)| place.starts_with(tree))
            .map(|(_, uses)| uses);
        above.chain(below).flatten().find(|other| writes || other.writes)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut table = self.claims.0.lock().unwrap_or_else(PoisonError::into_inner);
        for tree in &self.trees {
            if let Some(uses) = table.uses.get_mut(tree) {
                uses.retain(|one| one.claim != self.number);
                if uses.is_empty() {
                    table.uses.remove(tree);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(path: &str) -> RootFs {
        RootFs::Bind { path: path.into() }
    }

    fn overlay(layers: &[&str], home: &str) -> RootFs {
        RootFs::Overlay {
            layers: layers.iter().map(PathBuf::from).collect(),
            upper: Path::new(home).join("upper"),
            work: Path::new(home).join("work"),
        }
    }

    #[test]
    fn what_is_written_is_nobody_else_s() {
        let claims = Arc::new(Claims::default());
        let c1 = claims.take("c1", &bind("/pool/c1")).expect("free");
        for root in [
            bind("/pool/c1"),
            bind("/pool"),
            bind("/pool/c1/etc"),
            overlay(&["/pool/c1"], "/pool/c2"),
            overlay(&["/layers/a"], "/pool/c1"),
        ] {
            let taken = claims.take("c2", &root).expect_err("taken");
            assert!(
                taken.to_string().ends_with("which lies where c1 has its root"),
                "{taken}"
            );
        }
        let c10 = claims
            .take("c10", &bind("/pool/c10"))
            .expect("a name that begins like another");
        drop(c1);
        claims.take("c2", &bind("/pool/c1")).expect("free again");
        claims.take("c2", &bind("/pool")).expect_err("c10 is there");
        drop(c10);
        assert!(claims.0.lock().unwrap().uses.is_empty());
    }

    #[test]
    fn what_is_read_is_shared() {
        let claims = Arc::new(Claims::default());
        let c1 = claims
            .take("c1", &overlay(&["/layers/a", "/layers/b"], "/pool/c1"))
            .expect("free");
        let c2 = claims.take("c2", &overlay(&["/layers/a"], "/pool/c2")).expect("shared");
        claims.take("c3", &bind("/layers/b")).expect_err("c1 reads it");
        drop(c1);
        claims.take("c3", &bind("/layers/b")).expect("free again");
        claims.take("c3", &bind("/layers/a/deep")).expect_err("c2 reads it");
        drop(c2);
        assert!(claims.0.lock().unwrap().uses.is_empty());
    }
}
