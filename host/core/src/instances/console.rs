//! Consoles, logs and files of instances.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use hutch_api::instance::{ExecControl, InstanceConsolePost};
use hutch_api::operation;
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::error::{Error, Result};
use crate::events;
use crate::instances::owner::Owner;
use crate::operations::{NewOperation, Socket, Sockets};
use crate::profiles::with_project;
use crate::records::{InstanceRecord, volume_name};
use crate::{Core, Operation};

/// The log that a stopped container's console leaves.
const CONSOLE_LOG: &str = "console.log";

impl Core {
    /// Opens the console of a running instance.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for a stopped instance.
    pub async fn instance_console(
        self: &Arc<Self>,
        project: &str,
        name: &str,
        post: InstanceConsolePost,
    ) -> Result<Arc<Operation>> {
        if !post.kind.is_empty() && post.kind != "console" {
            return Err(Error::invalid(format!(
                "Containers have no console of type {:?}",
                post.kind
            )));
        }
        let keeper = self
            .instances
            .get(project, name)?
            .view()
            .keeper
            .clone()
            .ok_or_else(|| Error::invalid("Instance is not running"))?;
        let about = events::context([("type", "console".into())]);
        self.tell_of_instance(project, name, "instance-console", about);
        let sockets = Arc::new(Sockets::new(&["0", "control"]));
        let mut new = NewOperation::task(
            project,
            "Showing console",
            "instances",
            with_project(format!("/1.0/instances/{name}"), project),
        )
        .cancellable();
        new.class = operation::WEBSOCKET;
        new.metadata.insert("fds".to_owned(), Value::Object(sockets.fds()));
        let ends = Arc::clone(&sockets);
        let work = move |op: Arc<Operation>| async move {
            tokio::select! {
                () = ends.all_waiting(&["0"]) => {}
                () = op.cancelled() => return Err(Error::Cancelled),
            }
            let size = |side: i32| u16::try_from(side).ok().filter(|side| *side > 0);
            if let (Some(cols), Some(rows)) = (size(post.width), size(post.height)) {
                keeper
                    .console_resize(cols, rows)
                    .await
                    .map_err(Error::container("resizing the console"))?;
            }
            let stream = keeper
                .console()
                .await
                .map_err(Error::container("opening the console"))?;
            let over = watch::Sender::new(false);
            let (commands, mut inbox) = mpsc::channel::<ExecControl>(16);
            ends.give("0", Socket::Stream(stream));
            let control = Arc::clone(&ends);
            let receiver = over.subscribe();
            let handing = tokio::spawn(async move {
                control.waiting("control").await;
                control.give("control", Socket::Control(commands, receiver));
            });
            loop {
                tokio::select! {
                    command = inbox.recv() => match command {
                        // The control websocket closes when the client leaves the console.
                        None => break,
                        Some(command) if command.command == "window-resize" => {
                            let side = |key: &str| command.args.get(key).and_then(|text| text.parse::<u16>().ok());
                            if let (Some(cols), Some(rows)) = (side("width"), side("height")) {
                                keeper.console_resize(cols, rows).await.map_err(Error::container("resizing the console"))?;
                            }
                        }
                        Some(_) => {}
                    },
                    _ = keeper.ended() => break,
                    () = op.cancelled() => break,
                }
            }
            over.send_replace(true);
            handing.abort();
            Ok(())
        };
        self.operations.begin_with_sockets(new, sockets, work).await
    }

    /// What the console has shown, as far back as it is kept.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn console_log(&self, project: &str, name: &str) -> Result<Vec<u8>> {
        let view = self.instances.get(project, name)?.view();
        match &view.keeper {
            Some(keeper) => keeper
                .console_log()
                .await
                .map_err(Error::container(format!("reading the console of instance {name}"))),
            None => match std::fs::read(self.log_dir(project, name).join(CONSOLE_LOG)) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
                other => other.map_err(Error::io(format!("reading the console's log of instance {name}"))),
            },
        }
    }

    /// Empties the console's log.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn console_clear(&self, project: &str, name: &str) -> Result<()> {
        let view = self.instances.get(project, name)?.view();
        match &view.keeper {
            Some(keeper) => keeper
                .clear_console_log()
                .await
                .map_err(Error::container(format!("clearing the console of instance {name}"))),
            None => match std::fs::remove_file(self.log_dir(project, name).join(CONSOLE_LOG)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(format!(
                    "clearing the console's log of instance {name}"
                ))(error)),
                _ => Ok(()),
            },
        }
    }

    /// A stream to an SFTP server (draft-ietf-secsh-filexfer-02) that works as the instance's root.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn instance_sftp(&self, project: &str, name: &str) -> Result<OwnedFd> {
        let instance = self.instances.get(project, name)?;
        let view = instance.view();
        if let Some(keeper) = view.keeper.clone() {
            return keeper
                .sftp()
                .await
                .map_err(Error::container(format!("opening the files of instance {name}")));
        }
        instance
            .ask_for_root(|owner| Box::pin(async move { owner.open_files().await }))
            .await
    }

    /// Names of an instance's log files.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn instance_logs(&self, project: &str, name: &str) -> Result<Vec<String>> {
        self.instances.get(project, name)?;
        let Ok(entries) = std::fs::read_dir(self.log_dir(project, name)) else {
            return Ok(Vec::new());
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// Where one of an instance's log files is.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn instance_log(&self, project: &str, name: &str, file: &str) -> Result<PathBuf> {
        if !self.instance_logs(project, name)?.iter().any(|known| known == file) {
            return Err(Error::missing("Log file", file));
        }
        Ok(self.log_dir(project, name).join(file))
    }

    /// Deletes a log file.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`].
    pub fn instance_log_delete(&self, project: &str, name: &str, file: &str) -> Result<()> {
        let path = self.instance_log(project, name, file)?;
        std::fs::remove_file(&path).map_err(Error::io(format!("deleting {}", path.display())))
    }

    /// A new file for a command's output.
    pub(crate) fn exec_log(&self, record: &InstanceRecord, operation: &str, stream: &str) -> Result<OwnedFd> {
        let dir = self.log_dir(&record.project, &record.name);
        crate::pools::make_private_dir(&dir)?;
        let path = dir.join(format!("exec_{operation}.{stream}"));
        let file = std::fs::File::create_new(&path).map_err(Error::io(format!("making {}", path.display())))?;
        Ok(file.into())
    }

    pub(crate) fn log_dir(&self, project: &str, name: &str) -> PathBuf {
        self.state_dir.join("logs").join(volume_name(project, name))
    }

    pub(crate) fn remove_logs(&self, project: &str, name: &str) {
        let dir = self.log_dir(project, name);
        if let Err(error) = std::fs::remove_dir_all(&dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %dir.display(), "logs could not be removed");
        }
    }

    pub(crate) fn move_logs(&self, project: &str, name: &str, new_name: &str) {
        let (from, to) = (self.log_dir(project, name), self.log_dir(project, new_name));
        if let Err(error) = std::fs::rename(&from, &to)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %from.display(), "logs could not be renamed");
        }
    }
}

impl Owner {
    /// A stream to the files of the stopped instance. Its root is mounted once for all streams, and not any more when anything
    /// else is done with it.
    async fn open_files(&mut self) -> Result<OwnedFd> {
        if let Some(keeper) = &self.keeper {
            return keeper.sftp().await.map_err(Error::container(format!(
                "opening the files of instance {}",
                self.record.name
            )));
        }
        self.require_stopped("open its files")?;
        let action = format!("opening the files of instance {}", self.record.name);
        if let Some(files) = &self.files
            && let Some(stream) = files.stream().await.map_err(Error::container(&action))?
        {
            return Ok(stream);
        }
        self.close_files().await;
        let spec = self.specify().await?;
        let files = self
            .core
            .runtime
            .files(&spec)
            .await
            .map_err(Error::container(&action))?;
        let stream = files.stream().await.map_err(Error::container(&action))?;
        self.forget_files_once_closed(&files);
        self.files = Some(files);
        stream.ok_or_else(|| Error::Unavailable(format!("{action}: the file server ended at once")))
    }

    fn forget_files_once_closed(&self, files: &hutch_container::FilesHandle) {
        let (closed, instance) = (files.closed(), Arc::clone(&self.instance));
        tokio::spawn(async move {
            if let Err(error) = closed.await {
                tracing::warn!(instance = instance.name(), %error, "the file server can't be watched");
            }
            let forget = instance.ask(|owner| {
                Box::pin(async move {
                    // Another one may have been opened meanwhile, which goes on.
                    if owner
                        .files
                        .as_ref()
                        .is_some_and(hutch_container::FilesHandle::has_closed)
                    {
                        owner.close_files().await;
                    }
                    Ok(())
                })
            });
            // An instance that is gone has no files.
            drop(forget.await);
        });
    }

    /// Keeps what the console showed for after the container's end.
    pub(crate) async fn save_console(&self, keeper: &hutch_container::Keeper) {
        let Ok(log) = keeper.console_log().await else { return };
        let dir = self.core.log_dir(&self.record.project, &self.record.name);
        let saved = crate::pools::make_private_dir(&dir)
            .and_then(|()| std::fs::write(dir.join(CONSOLE_LOG), log).map_err(Error::io("writing the console's log")));
        if let Err(error) = saved {
            tracing::warn!(
                instance = self.record.name,
                error = error.report(),
                "the console's log could not be kept"
            );
        }
    }
}
