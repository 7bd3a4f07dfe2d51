//! Where volumes lie, and what is noted of them.

use crate::bindings::hutch::host::fs;
use crate::bindings::hutch::host::types::TreePath;
use crate::bindings::hutch::storage::types::{PoolRef, VolumeRef};
use crate::{Result, below, refused};

/// The kinds of volumes, which are also the names of their directories.
pub(crate) const KINDS: [&str; 4] = ["container", "virtual-machine", "image", "custom"];

/// What is noted of a volume.
pub(crate) struct Note {
    /// What it was made from: the same call repeated is told from another by it.
    pub(crate) origin: String,
    /// Which of its trees is its content.
    pub(crate) number: u32,
}

impl Note {
    /// The name of the tree.
    pub(crate) fn tree(&self) -> String {
        format!("tree-{}", self.number)
    }
}

/// The place of a volume.
pub(crate) struct Place {
    /// Its name, for messages.
    what: String,
    pub(crate) home: TreePath,
    pub(crate) making: TreePath,
}

/// The root of a pool.
pub(crate) fn root(pool: &PoolRef) -> TreePath {
    TreePath {
        root: pool.root.clone(),
        path: String::new(),
    }
}

/// Refuses what can't be one component of a path.
pub(crate) fn check_name(what: &str, name: &str) -> Result<()> {
    let good = !name.is_empty() && name.len() <= 255 && name != "." && name != "..";
    if good && !name.chars().any(|c| c == '/' || c.is_control()) {
        return Ok(());
    }
    refused("invalid", format!("{name:?} can't be the name of a {what}"))
}

impl Place {
    /// That of `volume`.
    pub(crate) fn of(pool: &PoolRef, volume: &VolumeRef) -> Result<Self> {
        Self::called(pool, volume, &volume.name)
    }

    /// That of `volume` if it had this name.
    pub(crate) fn called(pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<Self> {
        check_name("volume", name)?;
        let (kind, content) = (&volume.kind, &volume.content);
        if !KINDS.contains(&kind.as_str()) || content != "filesystem" {
            let message = format!("there is no place for the {content} volume {name:?} of the kind {kind}");
            return refused("unsupported", message);
        }
        let place = |directory: &str| below(&root(pool), &format!("{directory}/{kind}/{name}"));
        Ok(Self {
            what: format!("the {kind} volume {name:?}"),
            home: place("volumes"),
            making: place("making"),
        })
    }

    /// That of a volume that lies at `home`.
    pub(crate) fn at(home: TreePath) -> Self {
        Self {
            what: home.path.clone(),
            making: home.clone(),
            home,
        }
    }

    /// What is noted of the volume; none where there is none.
    pub(crate) fn note(&self) -> Result<Option<Note>> {
        let Some(data) = fs::read_file(&below(&self.home, "note"))? else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&data);
        let note = text.split_once(' ').and_then(|(number, origin)| {
            Some(Note {
                origin: origin.to_owned(),
                number: number.parse().ok()?,
            })
        });
        match note {
            Some(note) => Ok(Some(note)),
            None => refused("io", format!("the note of {} is damaged", self.what)),
        }
    }

    /// Notes it: the step by which a tree becomes the volume's.
    pub(crate) fn write(at: &TreePath, note: &Note) -> Result<()> {
        let text = format!("{} {}", note.number, note.origin);
        fs::write_file(&below(at, "note"), text.as_bytes(), 0o600)
    }

    /// What is noted of a volume that must be there.
    pub(crate) fn existing(&self) -> Result<Note> {
        match self.note()? {
            Some(note) => Ok(note),
            None => refused("not-found", format!("{} is not there", self.what)),
        }
    }

    /// Whether it was made from `origin` already. From anything else it may not be made again.
    pub(crate) fn is_made(&self, origin: &str) -> Result<bool> {
        match self.note()? {
            None => Ok(false),
            Some(note) if note.origin == origin => Ok(true),
            Some(note) => {
                let message = format!("{} is there already, made from {}", self.what, note.origin);
                refused("already-exists", message)
            }
        }
    }

    /// Refuses a volume that is there.
    pub(crate) fn absent(&self) -> Result<()> {
        match self.note()? {
            None => Ok(()),
            Some(_) => refused("already-exists", format!("{} is there already", self.what)),
        }
    }

    /// Refuses to finish what was not begun.
    pub(crate) fn begun(&self) -> Result<()> {
        match fs::stat(&below(&self.making, "tree-0"))? {
            Some(_) => Ok(()),
            None => refused("not-found", format!("{} is not being filled", self.what)),
        }
    }

    /// An empty place to make it in, without what an interrupted call may have left there. Answers with where its tree is to be.
    pub(crate) fn begin(&self) -> Result<TreePath> {
        fs::discard(&self.making)?;
        fs::make_dir(&self.making, 0o700)?;
        Ok(below(&self.making, "tree-0"))
    }

    /// Lets it appear, by one step that is done or not.
    pub(crate) fn publish(&self, origin: &str) -> Result<()> {
        let origin = origin.to_owned();
        Self::write(&self.making, &Note { origin, number: 0 })?;
        fs::rename(&self.making, &self.home)
    }
}

/// The names in a directory; none where there is no directory.
pub(crate) fn names(directory: &TreePath) -> Result<Vec<String>> {
    const PAGE: u32 = 1000;
    let mut found: Vec<String> = Vec::new();
    loop {
        let page = match fs::list_dir(directory, found.last().map(String::as_str), PAGE) {
            Ok(page) => page,
            Err(error) if error.code == "not-found" && found.is_empty() => return Ok(found),
            Err(error) => return Err(error),
        };
        let last = page.len() < PAGE as usize;
        found.extend(page.into_iter().map(|entry| entry.name));
        if last {
            return Ok(found);
        }
    }
}
