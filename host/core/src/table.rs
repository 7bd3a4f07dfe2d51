//! Objects in memory, by their key.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// An ordered table that many read and few change. Locks are held for the length of a look-up, never over an await.
#[derive(Debug)]
pub(crate) struct Table<K, V>(RwLock<BTreeMap<K, Arc<V>>>);

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(RwLock::new(BTreeMap::new()))
    }
}

impl<K: Ord + Clone, V> Table<K, V> {
    pub(crate) fn get(&self, key: &K) -> Option<Arc<V>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    pub(crate) fn list(&self) -> Vec<Arc<V>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// Those that `wanted` says.
    pub(crate) fn list_where(&self, wanted: impl Fn(&K, &V) -> bool) -> Vec<Arc<V>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter(|(key, value)| wanted(key, value))
            .map(|(_, value)| Arc::clone(value))
            .collect()
    }

    pub(crate) fn insert(&self, key: K, value: Arc<V>) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, value);
    }

    /// Inserts unless the key is taken, and says whether it did.
    pub(crate) fn claim(&self, key: K, value: Arc<V>) -> bool {
        match self.0.write().unwrap_or_else(PoisonError::into_inner).entry(key) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(value);
                true
            }
            std::collections::btree_map::Entry::Occupied(_) => false,
        }
    }

    pub(crate) fn remove(&self, key: &K) -> Option<Arc<V>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(key)
    }
}
