//! Files that images have made from templates, when an instance is created, copied, renamed or started.
//!
//! An instance keeps its image's templates for as long as it lives, whatever becomes of the image. They are applied by its next
//! start: rendered in a confined process ([`hutch_archive::Unpacker::render`]) and written inside the container before its PID 1
//! begins ([`hutch_container::NewFile`]).

use std::sync::Arc;

use hutch_archive::{Page, Surroundings};
use hutch_container::NewFile;
use uuid::Uuid;

use crate::Core;
use crate::error::{Error, Result};
use crate::images::Templates;
use crate::instances::owner::Owner;
use crate::instances::view::View;
use crate::records::{InstanceRecord, RECORD_VERSION, TemplatesRecord, key};
use crate::settings;

/// What has happened to the instance since its templates were last applied, in its configuration as LXD has it.
pub(crate) const PENDING: &str = "volatile.apply_template";
const START: &str = "start";

impl Core {
    /// The templates of an image for an instance made from it; `None` when it has none.
    pub(crate) fn templates_for_instance(&self, fingerprint: &str) -> Result<Option<TemplatesRecord>> {
        let templates = self.image_templates(fingerprint)?;
        Ok((!templates.templates.is_empty()).then(|| TemplatesRecord {
            v: RECORD_VERSION,
            image: fingerprint.to_owned(),
            templates,
            metadata: None,
        }))
    }

    /// The templates that an instance keeps.
    pub(crate) async fn kept_templates(&self, instance: &Uuid) -> Result<Option<TemplatesRecord>> {
        let at = key::templates(instance);
        let Some(entry) = self.store.get(&at).await? else {
            return Ok(None);
        };
        let record = serde_json::from_slice(&entry.value);
        record
            .map(Some)
            .map_err(|error| Error::io(format!("reading {at}"))(error.into()))
    }
}

/// Has templates applied by the next start, because of this; of two reasons the first counts.
pub(crate) fn defer(record: &mut InstanceRecord, trigger: &str) {
    record
        .config
        .entry(PENDING.to_owned())
        .or_insert_with(|| trigger.to_owned());
}

impl Owner {
    /// The files that the next start makes.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the template, its image and what is wrong with it.
    pub(crate) async fn files_of_templates(&self) -> Result<Vec<NewFile>> {
        let Some(kept) = self.core.kept_templates(&self.record.id).await? else {
            return Ok(Vec::new());
        };
        let view = self.instance.view();
        let (pages, mut files) = due(&kept.templates, self.record.config.get(PENDING).map(String::as_str))?;
        if pages.is_empty() {
            return Ok(files);
        }
        let surroundings = surroundings(&view);
        let (core, image) = (Arc::clone(&self.core), short(&kept.image).to_owned());
        let action = format!(
            "rendering the templates of image {image} for instance {}",
            self.record.name
        );
        let render = move || core.images.render_templates(pages, surroundings);
        let rendered = tokio::task::spawn_blocking(render)
            .await
            .map_err(|error| Error::io(action.clone())(std::io::Error::other(error)))?;
        let contents = rendered.map_err(|error| match error.is_archive_fault() {
            true => Error::invalid(format!("{action}: {error}")),
            false => Error::io(action)(std::io::Error::other(error)),
        })?;
        for (file, content) in files.iter_mut().zip(contents) {
            file.content = content;
            file.origin = format!("{} of image {image}", file.origin);
        }
        Ok(files)
    }
}

/// What is to be rendered, and the files that it goes to, in the same order: first what was put off, then what every start does.
///
/// # Errors
/// [`Error::Invalid`] for a template whose text was never made, or removed.
fn due(kept: &Templates, pending: Option<&str>) -> Result<(Vec<Page>, Vec<NewFile>)> {
    let mut due = (Vec::new(), Vec::new());
    for trigger in pending.into_iter().chain([START]) {
        let applies = kept
            .templates
            .iter()
            .filter(|(_, template)| template.when.iter().any(|when| when == trigger));
        for (path, template) in applies {
            let Some(text) = kept.texts.get(&template.template) else {
                return Err(Error::invalid(format!(
                    "{path} can't be made: the instance has no template {:?}",
                    template.template
                )));
            };
            due.0.push(Page {
                file: template.template.clone(),
                text: text.clone(),
                path: path.clone(),
                trigger: trigger.to_owned(),
                properties: template.properties.clone(),
            });
            due.1.push(NewFile {
                path: path.into(),
                content: String::new(),
                create_only: template.create_only,
                every_boot: trigger == START,
                origin: format!("template {}", template.template),
            });
        }
    }
    Ok(due)
}

/// What templates can use, with the spellings that LXD documents under "Image format".
fn surroundings(view: &View) -> Surroundings {
    let record = &view.record;
    let instance = [
        ("name", record.name.clone()),
        ("type", record.kind.clone()),
        ("architecture", record.architecture.clone()),
        ("ephemeral", record.ephemeral.to_string()),
        (
            "privileged",
            settings::is_true(&view.config, "security.privileged").to_string(),
        ),
    ];
    Surroundings {
        instance: instance
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
        config: view.config.clone(),
        devices: view.devices.clone(),
    }
}

/// A fingerprint as people are shown it.
fn short(fingerprint: &str) -> &str {
    fingerprint.get(..12).unwrap_or(fingerprint)
}

#[cfg(test)]
mod tests {
    use hutch_archive::Template;

    use super::*;

    #[test]
    fn what_is_due_goes_by_what_happened() {
        let template = |when: &[&str], file: &str| Template {
            when: when.iter().map(|when| (*when).to_owned()).collect(),
            template: file.to_owned(),
            ..Template::default()
        };
        let kept = Templates {
            templates: [
                ("/a".to_owned(), template(&["create", "copy", "rename"], "a.tpl")),
                ("/b".to_owned(), template(&["create", "start"], "b.tpl")),
            ]
            .into(),
            texts: [
                ("a.tpl".to_owned(), "A".to_owned()),
                ("b.tpl".to_owned(), "B".to_owned()),
            ]
            .into(),
        };
        let shown = |pending| {
            let (pages, files) = due(&kept, pending).unwrap();
            let boots: Vec<bool> = files.iter().map(|file| file.every_boot).collect();
            let pages: Vec<String> = pages
                .iter()
                .map(|page| format!("{} {} {}", page.trigger, page.path, page.text))
                .collect();
            (pages, boots)
        };
        let of = |pages: &[&str], boots: &[bool]| {
            (
                pages.iter().map(|page| (*page).to_owned()).collect::<Vec<_>>(),
                boots.to_vec(),
            )
        };
        assert_eq!(
            shown(Some("create")),
            of(&["create /a A", "create /b B", "start /b B"], &[false, false, true])
        );
        assert_eq!(
            shown(Some("rename")),
            of(&["rename /a A", "start /b B"], &[false, true])
        );
        assert_eq!(shown(None), of(&["start /b B"], &[true]));
    }
}
