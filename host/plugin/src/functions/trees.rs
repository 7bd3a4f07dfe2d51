//! `fs`: trees below the roots of a call.

use hutch_broker::{Request, Response};

use super::{Answer, tree};
use crate::bindings::host::{fs, types};
use crate::state::CallState;

impl fs::Host for CallState {
    async fn stat(&mut self, at: types::TreePath) -> Answer<Option<fs::FileInfo>> {
        self.shaped(Request::FsStat { at: tree(at) }, |response| match response {
            Response::FileInfo(info) => Some(info.map(|info| fs::FileInfo {
                kind: info.kind,
                size: info.size,
                mode: info.mode,
                modified: info.modified,
            })),
            _ => None,
        })
        .await
    }

    async fn make_dir(&mut self, at: types::TreePath, mode: u32) -> Answer<()> {
        self.unit(Request::FsMakeDir { at: tree(at), mode }).await
    }

    async fn list_dir(&mut self, at: types::TreePath, after: Option<String>, limit: u32) -> Answer<Vec<fs::DirEntry>> {
        self.shaped(
            Request::FsListDir {
                at: tree(at),
                after,
                limit,
            },
            |response| match response {
                Response::DirEntries(entries) => Some(
                    entries
                        .into_iter()
                        .map(|e| fs::DirEntry {
                            name: e.name,
                            kind: e.kind,
                        })
                        .collect(),
                ),
                _ => None,
            },
        )
        .await
    }

    async fn read_file(&mut self, at: types::TreePath) -> Answer<Option<Vec<u8>>> {
        self.bytes(Request::FsReadFile { at: tree(at) }).await
    }

    async fn write_file(&mut self, at: types::TreePath, data: Vec<u8>, mode: u32) -> Answer<()> {
        self.unit(Request::FsWriteFile {
            at: tree(at),
            data,
            mode,
        })
        .await
    }

    async fn write_part(&mut self, at: types::TreePath, offset: u64, data: Vec<u8>, mode: u32) -> Answer<()> {
        self.unit(Request::FsWritePart {
            at: tree(at),
            offset,
            data,
            mode,
        })
        .await
    }

    async fn replace_file(&mut self, source: types::TreePath, to: types::TreePath) -> Answer<()> {
        self.unit(Request::FsReplaceFile {
            source: tree(source),
            to: tree(to),
        })
        .await
    }

    async fn rename(&mut self, source: types::TreePath, to: types::TreePath) -> Answer<()> {
        self.unit(Request::FsRename {
            source: tree(source),
            to: tree(to),
        })
        .await
    }

    async fn discard(&mut self, at: types::TreePath) -> Answer<()> {
        self.unit(Request::FsDiscard { at: tree(at) }).await
    }

    async fn copy_tree(&mut self, source: types::TreePath, to: types::TreePath) -> Answer<()> {
        self.unit(Request::FsCopyTree {
            source: tree(source),
            to: tree(to),
        })
        .await
    }

    async fn copy_merged(&mut self, layers: Vec<types::TreePath>, to: types::TreePath) -> Answer<()> {
        self.unit(Request::FsCopyMerged {
            layers: layers.into_iter().map(tree).collect(),
            to: tree(to),
        })
        .await
    }

    async fn features(&mut self, root: String) -> Answer<Vec<String>> {
        self.strings(Request::FsFeatures { root }).await
    }

    async fn space(&mut self, root: String) -> Answer<fs::SpaceInfo> {
        self.shaped(Request::FsSpace { root }, |response| match response {
            Response::Space(space) => Some(fs::SpaceInfo {
                total_bytes: space.total_bytes,
                used_bytes: space.used_bytes,
                total_inodes: space.total_inodes,
                used_inodes: space.used_inodes,
            }),
            _ => None,
        })
        .await
    }

    async fn usage(&mut self, at: types::TreePath) -> Answer<Option<u64>> {
        self.shaped(Request::FsUsage { at: tree(at) }, |response| match response {
            Response::Size(size) => Some(size),
            _ => None,
        })
        .await
    }

    async fn set_quota(&mut self, at: types::TreePath, bytes: Option<u64>) -> Answer<()> {
        self.unit(Request::FsSetQuota { at: tree(at), bytes }).await
    }
}
