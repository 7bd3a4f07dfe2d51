//! Trees on their way between the machines.

use hutch_sdk::storage::{PoolRef, VolumeRef};
use hutch_sdk::{Host, Result, TreePath};

use crate::note::{About, VolumeNote, write};
use crate::remote::Remote;

/// The name of a tree, here and there.
pub fn name(number: u32) -> String {
    format!("tree-{number}")
}

/// A volume with its note and its two homes.
pub struct Home<'a> {
    pub remote: Remote,
    pub volume: &'a VolumeRef,
    /// What it is called: after it was renamed not what the call says.
    pub name: &'a str,
    pub here: TreePath,
    pub note: VolumeNote,
}

impl<'a> Home<'a> {
    /// A volume that is there, under its name.
    pub fn of(pool: &PoolRef, volume: &'a VolumeRef, here: TreePath, note: VolumeNote) -> Result<Self> {
        Ok(Self {
            remote: Remote::of(pool)?,
            volume,
            name: &volume.name,
            here,
            note,
        })
    }

    /// Writes the note.
    pub fn write(&self, host: &impl Host) -> Result<()> {
        write(host, &self.here, &self.note)
    }

    /// Writes the note, which says something else than what the other machine knows, and tells that, too.
    pub fn change(&mut self, host: &impl Host) -> Result<()> {
        self.note.told = false;
        self.write(host)?;
        self.tell(host)
    }

    /// Tells the other machine what it does not know, where it has anything of the volume. Trees that nothing names go.
    pub fn tell(&mut self, host: &impl Host) -> Result<()> {
        self.tell_but(host, 0)
    }

    /// The same, and the tree `begun` stays.
    fn tell_but(&mut self, host: &impl Host, begun: u32) -> Result<()> {
        if self.note.told || !self.note.sent {
            return Ok(());
        }
        let about = About::new(self.volume, self.name, &self.note);
        host.fs_make_dir(&self.here.join("about"), 0o700)?;
        hutch_sdk::note::write(host, &self.here.join("about/volume.json"), &about)?;
        let named = self.note.snapshots.values().chain([&self.note.home, &begun]);
        let keep: String = named.map(|number| format!("/{}\n", name(*number))).collect();
        host.fs_write_file(&self.here.join("keep"), keep.as_bytes(), 0o600)?;
        self.remote.tell(host, &self.here, &self.note.id)?;
        self.note.told = true;
        self.write(host)
    }

    /// Sends the volume home, if it is here, and answers with the tree that it is there. The note does not name it yet.
    ///
    /// Never to a tree that was begun before: it may have links to what is named, and rsync changes modes and owners where they are. But
    /// what was sent then is linked with, and not sent again.
    pub fn send(&mut self, host: &impl Host) -> Result<u32> {
        let Some(tree) = self.note.tree else {
            return Ok(self.note.home);
        };
        self.note.sent = true;
        let begun = self.note.last;
        // The first time, the volume gets its directory by that.
        self.tell_but(host, begun)?;
        self.note.last += 1;
        // Whoever tells next takes away what is begun here and never named.
        self.note.told = false;
        self.write(host)?;
        let from = self.here.join(&name(tree));
        let links = [self.note.home, begun];
        self.remote.send(host, &from, &self.note.id, self.note.last, links)?;
        Ok(self.note.last)
    }

    /// The volume's tree here, brought in if it is not here.
    pub fn bring(&mut self, host: &impl Host) -> Result<TreePath> {
        if let Some(tree) = self.note.tree {
            return Ok(self.here.join(&name(tree)));
        }
        let number = self.note.local.wrapping_add(1);
        let tree = self.here.join(&name(number));
        // One that was brought in by a call that did not get as far as the note.
        host.fs_discard(&tree)?;
        self.fetch(host, self.note.home, &tree)?;
        self.note.local = number;
        self.note.tree = Some(number);
        self.write(host)?;
        Ok(tree)
    }

    /// A tree of a snapshot, here: to look at only.
    pub fn show(&self, host: &impl Host, number: u32) -> Result<TreePath> {
        let at = self.here.join("shown").join(&number.to_string());
        if host.fs_stat(&at)?.is_none() {
            host.fs_make_dir(&self.here.join("shown"), 0o700)?;
            self.fetch(host, number, &at)?;
        }
        Ok(at)
    }

    /// Brings a tree to a place where it appears complete or not at all.
    fn fetch(&self, host: &impl Host, number: u32, to: &TreePath) -> Result<()> {
        let coming = self.here.join("coming");
        host.fs_make_dir(&coming, 0o700)?;
        self.remote.fetch(host, &self.note.id, number, &coming)?;
        host.fs_rename(&coming, to)
    }
}
