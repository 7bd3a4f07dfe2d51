//! Names of images.

use hutch_api::image::{ImageAliasesEntry, ImageAliasesEntryPatch, ImageAliasesEntryPost, ImageAliasesEntryPut};
use hutch_store::Transaction;

use super::record::{self, AliasRecord, ImageRecord, check_alias};
use crate::error::{Error, Result};
use crate::events;
use crate::projects::Feature;
use crate::{Core, Tagged, check_etag, etag};

fn render(record: &AliasRecord) -> ImageAliasesEntry {
    ImageAliasesEntry {
        name: record.name.clone(),
        description: record.description.clone(),
        target: record.target.clone(),
        kind: record::CONTAINER.to_owned(),
    }
}

impl Core {
    /// The aliases of a project, or all there are.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the project.
    pub fn alias_list(&self, project: Option<&str>) -> Result<Vec<ImageAliasesEntry>> {
        let project = project
            .map(|project| self.scope(project, Feature::Images))
            .transpose()?;
        let mut records = self.images.aliases.list();
        records.retain(|record| project.as_ref().is_none_or(|project| record.project == *project));
        Ok(records.iter().map(|record| render(record)).collect())
    }

    /// One alias.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn alias(&self, project: &str, name: &str) -> Result<Tagged<ImageAliasesEntry>> {
        let project = self.scope(project, Feature::Images)?;
        let record = self
            .images
            .aliases
            .get(&(project, name.to_owned()))
            .ok_or_else(|| Error::missing("Image alias", name))?;
        let value = render(&record);
        Ok(Tagged {
            etag: etag(&value.etag_parts()),
            value,
        })
    }

    /// Gives an image a name.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Conflict`] for a name that is taken, [`Error::NotFound`] for the image.
    pub async fn alias_create(&self, project: &str, post: ImageAliasesEntry) -> Result<()> {
        check_alias(&post.name)?;
        let project = self.scope(project, Feature::Images)?;
        let image = self.images.find(&project, &post.target)?;
        let _guard = self.images.changing.lock().await;
        if self.images.aliases.get(&(project.clone(), post.name.clone())).is_some() {
            return Err(Error::Conflict(format!("Alias already exists: {}", post.name)));
        }
        self.put_alias(AliasRecord::new(
            &project,
            &post.name,
            &post.description,
            &image.fingerprint,
        ))
        .await?;
        let path = format!("/1.0/images/aliases/{}", post.name);
        let target = events::context([("target", image.fingerprint.clone().into())]);
        self.events.lifecycle(&project, "image-alias-created", &path, target);
        Ok(())
    }

    /// Changes what an alias names and says.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the alias or the image, [`Error::Changed`].
    pub async fn alias_update(
        &self,
        project: &str,
        name: &str,
        put: ImageAliasesEntryPut,
        if_match: Option<&str>,
    ) -> Result<()> {
        let _guard = self.images.changing.lock().await;
        self.alias_put(project, name, put, if_match).await
    }

    /// Changes some of an alias.
    ///
    /// # Errors
    /// As [`Core::alias_update`].
    pub async fn alias_patch(
        &self,
        project: &str,
        name: &str,
        patch: ImageAliasesEntryPatch,
        if_match: Option<&str>,
    ) -> Result<()> {
        let _guard = self.images.changing.lock().await;
        let current = self.alias(project, name)?.value;
        let put = ImageAliasesEntryPut {
            description: patch.description.unwrap_or(current.description),
            target: patch.target.unwrap_or(current.target),
        };
        self.alias_put(project, name, put, if_match).await
    }

    async fn alias_put(
        &self,
        project: &str,
        name: &str,
        put: ImageAliasesEntryPut,
        if_match: Option<&str>,
    ) -> Result<()> {
        let current = self.alias(project, name)?;
        check_etag(&current.value.etag_parts(), if_match)?;
        let project = self.scope(project, Feature::Images)?;
        let image = self.images.find(&project, &put.target)?;
        self.put_alias(AliasRecord::new(&project, name, &put.description, &image.fingerprint))
            .await?;
        let path = format!("/1.0/images/aliases/{name}");
        self.events
            .lifecycle(&project, "image-alias-updated", &path, serde_json::Map::new());
        Ok(())
    }

    /// Gives an alias another name.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`], [`Error::Conflict`] for a name that is taken.
    pub async fn alias_rename(&self, project: &str, name: &str, post: ImageAliasesEntryPost) -> Result<()> {
        check_alias(&post.name)?;
        let _guard = self.images.changing.lock().await;
        let current = self.alias(project, name)?.value;
        let project = self.scope(project, Feature::Images)?;
        if self.images.aliases.get(&(project.clone(), post.name.clone())).is_some() {
            return Err(Error::Conflict(format!("Alias already exists: {}", post.name)));
        }
        let record = AliasRecord::new(&project, &post.name, &current.description, &current.target);
        let change = Transaction::new()
            .delete(record::alias_key(&project, name))
            .put(record.key(), &record)?;
        self.store.commit(change).await?;
        self.images.aliases.remove(&(project.clone(), name.to_owned()));
        self.images
            .aliases
            .insert((project.clone(), record.name.clone()), std::sync::Arc::new(record));
        let path = format!("/1.0/images/aliases/{}", post.name);
        let old = events::context([("old_name", name.into())]);
        self.events.lifecycle(&project, "image-alias-renamed", &path, old);
        Ok(())
    }

    /// Takes a name back. The image stays.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn alias_delete(&self, project: &str, name: &str) -> Result<()> {
        let _guard = self.images.changing.lock().await;
        self.alias(project, name)?;
        let project = self.scope(project, Feature::Images)?;
        self.store
            .commit(Transaction::new().delete(record::alias_key(&project, name)))
            .await?;
        self.images.aliases.remove(&(project.clone(), name.to_owned()));
        let path = format!("/1.0/images/aliases/{name}");
        self.events
            .lifecycle(&project, "image-alias-deleted", &path, serde_json::Map::new());
        Ok(())
    }

    /// Lets everything that names one image name another.
    pub(super) async fn move_aliases(&self, from: &ImageRecord, to: &ImageRecord) -> Result<()> {
        let _guard = self.images.changing.lock().await;
        for alias in self
            .images
            .aliases
            .list()
            .iter()
            .filter(|alias| alias.project == from.project && alias.target == from.fingerprint)
        {
            self.put_alias(AliasRecord {
                target: to.fingerprint.clone(),
                ..AliasRecord::clone(alias)
            })
            .await?;
        }
        Ok(())
    }
}
