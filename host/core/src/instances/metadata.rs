//! What an instance's image says of it, `metadata.yaml` in an image, and the texts of its templates: shown and changed.
//!
//! An instance begins with what its image says and keeps that for itself ([`TemplatesRecord`]). Its next start applies the templates as
//! they are then, and an image that is made of it says the same.

use std::collections::BTreeMap;
use std::sync::Arc;

pub use hutch_archive::ImageMetadata;
use hutch_archive::Limits;
use hutch_store::Transaction;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::events;
use crate::instances::owner::Owner;
use crate::records::{InstanceRecord, RECORD_VERSION, TemplatesRecord, key};
use crate::{Core, Tagged, check_etag, etag};

/// Most templates of an instance, as of an image.
const TEMPLATES: usize = 256;

impl Core {
    /// What the image of an instance says of it, or has been made to say.
    ///
    /// # Errors
    /// [`Error::NotFound`], and the store's.
    pub async fn instance_metadata(&self, project: &str, name: &str) -> Result<Tagged<ImageMetadata>> {
        let record = Arc::clone(&self.instances.get(project, name)?.view().record);
        let value = shown(&record, self.kept_templates(&record.id).await?);
        Ok(Tagged {
            etag: etag(&json!(value)),
            value,
        })
    }

    /// Replaces it, or with `partly` those of its fields and entries that the request has.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Changed`], [`Error::Invalid`] for what can't be in an image, and the store's.
    pub async fn instance_metadata_update(
        &self,
        project: &str,
        name: &str,
        new: Map<String, Value>,
        partly: bool,
        if_match: Option<&str>,
    ) -> Result<()> {
        let if_match = if_match.map(str::to_owned);
        let change = move |record: &InstanceRecord, kept: TemplatesRecord| {
            let old = json!(shown(record, Some(kept.clone())));
            check_etag(&old, if_match.as_deref())?;
            let new = if partly { merged(old, new) } else { Value::Object(new) };
            let metadata: ImageMetadata =
                serde_json::from_value(new).map_err(|error| Error::invalid(format!("Invalid metadata: {error}")))?;
            metadata
                .check()
                .map_err(|why| Error::invalid(format!("Invalid metadata: {why}")))?;
            let mut kept = kept;
            kept.templates.templates.clone_from(&metadata.templates);
            kept.metadata = Some(ImageMetadata {
                templates: BTreeMap::new(),
                ..metadata
            });
            Ok(kept)
        };
        self.change_templates(project, name, "instance-metadata-updated", Map::new(), change)
            .await
    }

    /// The file names of an instance's templates.
    ///
    /// # Errors
    /// [`Error::NotFound`], and the store's.
    pub async fn instance_templates(&self, project: &str, name: &str) -> Result<Vec<String>> {
        let id = self.instances.get(project, name)?.view().record.id;
        let kept = self.kept_templates(&id).await?;
        Ok(kept
            .map(|kept| kept.templates.texts.into_keys().collect())
            .unwrap_or_default())
    }

    /// The text of one.
    ///
    /// # Errors
    /// [`Error::NotFound`], and the store's.
    pub async fn instance_template(&self, project: &str, name: &str, file: &str) -> Result<String> {
        let id = self.instances.get(project, name)?.view().record.id;
        let kept = self.kept_templates(&id).await?;
        kept.and_then(|mut kept| kept.templates.texts.remove(file))
            .ok_or_else(|| Error::missing("Template", file))
    }

    /// Makes a template, or replaces its text.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for a name or a text that no image may have, and the store's.
    pub async fn instance_template_put(&self, project: &str, name: &str, file: &str, text: &[u8]) -> Result<()> {
        if !hutch_archive::is_template_name(file) {
            return Err(Error::invalid(format!("{file:?} can't be the file name of a template")));
        }
        let most = Limits::default().template_bytes;
        let text = std::str::from_utf8(text)
            .ok()
            .filter(|text| u64::try_from(text.len()).is_ok_and(|length| length <= most))
            .ok_or_else(|| {
                Error::invalid(format!(
                    "Template {file:?} is not text in UTF-8 of at most {most} bytes"
                ))
            })?;
        let (at, text) = (file.to_owned(), text.to_owned());
        let change = move |_: &InstanceRecord, mut kept: TemplatesRecord| {
            let texts = &mut kept.templates.texts;
            if texts.len() >= TEMPLATES && !texts.contains_key(&at) {
                return Err(Error::invalid(format!("An instance has at most {TEMPLATES} templates")));
            }
            texts.insert(at, text);
            Ok(kept)
        };
        let context = events::context([("path", file.into())]);
        self.change_templates(project, name, "instance-metadata-template-created", context, change)
            .await
    }

    /// Removes a template.
    ///
    /// # Errors
    /// [`Error::NotFound`], and the store's.
    pub async fn instance_template_delete(&self, project: &str, name: &str, file: &str) -> Result<()> {
        let at = file.to_owned();
        let change = move |_: &InstanceRecord, mut kept: TemplatesRecord| match kept.templates.texts.remove(&at) {
            Some(_) => Ok(kept),
            None => Err(Error::missing("Template", at)),
        };
        let context = events::context([("path", file.into())]);
        self.change_templates(project, name, "instance-metadata-template-deleted", context, change)
            .await
    }

    async fn change_templates<C>(
        &self,
        project: &str,
        name: &str,
        action: &'static str,
        context: Map<String, Value>,
        change: C,
    ) -> Result<()>
    where
        C: FnOnce(&InstanceRecord, TemplatesRecord) -> Result<TemplatesRecord> + Send + 'static,
    {
        let instance = self.instances.get(project, name)?;
        instance
            .ask(move |owner| {
                Box::pin(async move {
                    owner.change_templates(change).await?;
                    owner.tell_more(action, context);
                    Ok(())
                })
            })
            .await
    }
}

impl Owner {
    async fn change_templates(
        &mut self,
        change: impl FnOnce(&InstanceRecord, TemplatesRecord) -> Result<TemplatesRecord>,
    ) -> Result<()> {
        self.require_settled("change what its image says")?;
        let kept = self.core.kept_templates(&self.record.id).await?;
        let kept = kept.unwrap_or_else(|| TemplatesRecord {
            v: RECORD_VERSION,
            image: String::new(),
            templates: crate::images::Templates::default(),
            metadata: None,
        });
        let kept = change(&self.record, kept)?;
        let change = Transaction::new().put(key::templates(&self.record.id), &kept)?;
        self.core.store.commit(change).await?;
        Ok(())
    }
}

/// What the image of an instance says: what it was made to say, or what is known of the image that it was made from.
fn shown(record: &InstanceRecord, kept: Option<TemplatesRecord>) -> ImageMetadata {
    let (metadata, templates) = kept
        .map(|kept| (kept.metadata, kept.templates.templates))
        .unwrap_or_default();
    let metadata = metadata.unwrap_or_else(|| ImageMetadata {
        architecture: record.architecture.clone(),
        creation_date: record.created_at.get().map_or(0, time::OffsetDateTime::unix_timestamp),
        expiry_date: 0,
        properties: of_image(record),
        templates: BTreeMap::new(),
    });
    ImageMetadata { templates, ..metadata }
}

/// The properties of the image that an instance was made from.
pub(crate) fn of_image(record: &InstanceRecord) -> BTreeMap<String, String> {
    let properties = record.config.iter();
    properties
        .filter_map(|(key, value)| Some((key.strip_prefix("image.")?.to_owned(), value.clone())))
        .collect()
}

/// The fields of `new` in the place of those of `old`; of properties and templates the entries.
fn merged(mut old: Value, new: Map<String, Value>) -> Value {
    for (field, value) in new {
        match (old.get_mut(&field), value) {
            (Some(Value::Object(entries)), Value::Object(more)) => entries.extend(more),
            (_, value) => old[field] = value,
        }
    }
    old
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_takes_the_place_of_the_same_part() {
        let old = json!({ "architecture": "x86_64", "properties": { "os": "a", "release": "1" }, "templates": {} });
        let new = json!({ "properties": { "os": "b" }, "expiry_date": 5 });
        let Value::Object(new) = new else { unreachable!() };
        assert_eq!(
            merged(old, new),
            json!({
                "architecture": "x86_64", "properties": { "os": "b", "release": "1" }, "templates": {}, "expiry_date": 5
            })
        );
    }
}
