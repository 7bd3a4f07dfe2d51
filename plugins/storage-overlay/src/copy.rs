//! New volumes from existing ones.

use hutch_sdk::storage::{Clone, CopySource, PoolRef, VolumeRef};
use hutch_sdk::{Host, Result};

use crate::Overlay;
use crate::layers::{copy_stack, finish_upper, make_upper, reference_all, root_mode};
use crate::layout::{Layout, check, check_name};
use crate::record::{Form, Id, MAX_LAYERS, Record};
use crate::snapshot::{commit, freeze};
use crate::volume::{form_of, is_made};

/// What a copy is made of.
pub(crate) struct Content {
    /// A writable layer, to be copied; none if all is frozen and can be shared.
    tree: Option<Id>,
    /// Frozen layers, uppermost first.
    chain: Vec<Id>,
    /// Of the root directory.
    pub(crate) mode: u32,
}

impl Content {
    /// What the source consists of. A layered one that is not mounted is frozen first, unless the copy shares nothing anyway.
    pub(crate) fn of(host: &impl Host, layout: &Layout, source: CopySource<'_>, shares: bool) -> Result<Self> {
        let mut record = layout.existing(host, source.volume)?;
        if let Some(name) = source.snapshot {
            let snapshot = record.snapshot(&source.volume.name, name)?;
            return Ok(Self {
                tree: None,
                chain: record.chain(&snapshot.top)?,
                mode: snapshot.mode,
            });
        }
        if shares && record.form == Form::Layered && !source.live {
            if !record.clean {
                let discard = freeze(host, layout, &mut record)?;
                commit(host, layout, source.volume, &mut record, discard)?;
            }
            return Ok(Self {
                tree: None,
                chain: record.own_chain()?,
                mode: record.mode,
            });
        }
        let mode = record
            .tree
            .as_ref()
            .map_or(Ok(record.mode), |tree| root_mode(host, layout, tree))?;
        Ok(Self {
            chain: record.own_chain()?,
            tree: record.tree,
            mode,
        })
    }

    fn stack(&self) -> Vec<Id> {
        self.tree.iter().chain(&self.chain).cloned().collect()
    }

    /// The content as frozen layers alone, uppermost first, taken up for the volume `uid`: a writable layer is copied.
    pub(crate) fn frozen(&self, host: &impl Host, layout: &Layout, uid: &Id) -> Result<Vec<Id>> {
        let Some(tree) = &self.tree else {
            reference_all(host, layout, uid, &self.chain)?;
            return Ok(self.chain.clone());
        };
        let shares = self.chain.len() < MAX_LAYERS;
        let copied = if shares {
            std::slice::from_ref(tree).to_vec()
        } else {
            self.stack()
        };
        let frozen = copy_stack(host, layout, &copied, None)?;
        let chain: Vec<Id> = if shares {
            std::iter::once(frozen).chain(self.chain.iter().cloned()).collect()
        } else {
            vec![frozen]
        };
        reference_all(host, layout, uid, &chain)?;
        Ok(chain)
    }
}

/// Gives a volume that is not plain the content: frozen layers are shared, a writable one is copied.
fn share(host: &impl Host, layout: &Layout, record: &mut Record, content: &Content) -> Result<()> {
    if let Some(tree) = &content.tree
        && record.form == Form::Layered
        && !content.chain.is_empty()
    {
        reference_all(host, layout, &record.uid, &content.chain)?;
        record.adopt(&content.chain);
        let upper = copy_stack(host, layout, std::slice::from_ref(tree), None)?;
        finish_upper(host, layout, &upper, None)?;
        record.tree = Some(upper);
        return Ok(());
    }
    record.adopt(&content.frozen(host, layout, &record.uid)?);
    if record.form == Form::Layered {
        record.tree = Some(make_upper(host, layout, content.mode, None)?);
    }
    Ok(())
}

impl Clone for Overlay {
    fn copy(host: &impl Host, pool: &PoolRef, source: CopySource<'_>, target: &VolumeRef, plain: bool) -> Result<()> {
        check(source.volume)?;
        check(target)?;
        if let Some(snapshot) = source.snapshot {
            check_name("snapshot", snapshot)?;
        }
        let layout = Layout::of(pool);
        let (kind, name) = (&source.volume.kind, &source.volume.name);
        let origin = match source.snapshot {
            None => format!("{kind} {name}"),
            Some(snapshot) => format!("{kind} {name}/{snapshot}"),
        };
        if is_made(host, &layout, target, &origin)? {
            return Ok(());
        }
        let mut record = Record::new(Id::new(host), origin, form_of(target, plain));
        let content = Content::of(host, &layout, source, record.form != Form::Plain)?;
        record.mode = content.mode;
        if record.form == Form::Plain {
            record.tree = Some(copy_stack(host, &layout, &content.stack(), None)?);
        } else {
            share(host, &layout, &mut record, &content)?;
        }
        layout.write(host, target, &record)
    }
}
