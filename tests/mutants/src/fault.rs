//! The promises that can be broken.

use hutch_sdk::storage::PoolRef;
use hutch_sdk::{Error, Options, Result};

/// The option that names one.
pub(crate) const OPTION: &str = "fault";

macro_rules! faults {
    ($($(#[$doc:meta])* $fault:ident = $name:literal,)+) => {
        /// A promise that is broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Fault {
            $($(#[$doc])* $fault,)+
        }

        impl Fault {
            /// What the option of the pool says; none without it.
            pub(crate) fn of(pool: &PoolRef) -> Option<Self> {
                match Options::new(&pool.config).get(OPTION) {
                    $(Some($name) => Some(Self::$fault),)+
                    _ => None,
                }
            }

            /// Refuses a name that is none: a test of a fault that is not there would show nothing.
            pub(crate) fn check(name: Option<&str>) -> Result<()> {
                match name {
                    None $(| Some($name))+ => Ok(()),
                    Some(other) => Err(Error::invalid(format!("there is no fault {other:?}"))),
                }
            }
        }
    };
}

faults! {
    /// A key that nobody knows is accepted.
    AcceptsAnyKey = "accepts-any-key",
    /// Opening makes the pool where there is none.
    OpenMakes = "open-makes",
    /// More is in use than there is.
    FullerThanFull = "fuller-than-full",
    /// Deleting a pool leaves its directories.
    PoolDeleteLeaves = "pool-delete-leaves",
    /// What does not belong in the pool stays.
    ReconcileKeepsAll = "reconcile-keeps-all",
    /// A volume that belongs in the pool is told as removed.
    ReconcileTellsAnothers = "reconcile-tells-anothers",
    /// A snapshot that belongs in the pool is removed.
    ReconcileDropsSnapshots = "reconcile-drops-snapshots",
    /// What was being made is not taken back.
    ReconcileLeavesMaking = "reconcile-leaves-making",
    /// Deleting what is gone fails.
    DeleteOnce = "delete-once",
    /// A volume is made where it is to be, and not by one step.
    CreateInPlace = "create-in-place",
    /// A volume that is there is made again from something else.
    CreateReplaces = "create-replaces",
    /// A volume shows its image's own tree.
    SharesImage = "shares-image",
    /// That the host could not copy is nobody's business.
    SwallowsErrors = "swallows-errors",
    /// That a permission is missing is called something else.
    HidesRefusals = "hides-refusals",
    /// What an earlier filling left is still there.
    FillKeeps = "fill-keeps",
    /// A volume is there before it was filled to its end.
    FillIsThere = "fill-is-there",
    /// Snapshots stay behind under the old name.
    RenameLosesSnapshots = "rename-loses-snapshots",
    /// The name of another volume is taken.
    RenameReplaces = "rename-replaces",
    /// Each plan is another one.
    MountMoves = "mount-moves",
    /// A name leads out of the place of volumes.
    BelievesNames = "believes-names",
    /// Each attempt at a snapshot leaves a tree.
    SnapshotLeaks = "snapshot-leaks",
    /// A snapshot shows what the volume is now.
    SnapshotFollows = "snapshot-follows",
    /// The volume is gone before the snapshot is copied.
    RestoreDiscardsFirst = "restore-discards-first",
    /// A limit is accepted and not set.
    QuotaIgnored = "quota-ignored",
}
