//! What the server can do beyond the first version of the API.
//!
//! A name is here only when all that it stands for works, because clients stop looking for another way once they see it.
//! Beside each is what it promises. Never to be here: `storage_and_network_operations` (clients would wait for operations
//! where networks and pools answer at once) and `explicit_trust_token` (there are no tokens).

/// The names, in the order in which LXD and then Incus brought them, and last our own, which begin with `hutch_`.
pub const EXTENSIONS: &[&str] = &[
    // security.syscalls.blacklist, blacklist_compat, blacklist_default and whitelist.
    "container_syscall_filtering",
    // ETags on single objects, and If-Match on changes to them (412).
    "etag",
    // PATCH on every object that has PUT.
    "patch",
    // An instance says when it was last started.
    "container_last_used_at",
    // Making, listing and removing directories by the files endpoint.
    "directory_manipulation",
    // The state of an instance has its processor time.
    "container_cpu_time",
    // /1.0/networks.
    "network",
    // Profiles list their users.
    "profile_usedby",
    // Recording a command's output without a websocket.
    "container_exec_recording",
    // Signals by the control websocket of a command.
    "container_exec_signal_handling",
    // /1.0/storage-pools.
    "storage",
    // DELETE on files.
    "file_delete",
    // Appending to files.
    "file_append",
    // Aliases by the headers of an image's upload.
    "image_create_aliases",
    // Copies of instances without their snapshots.
    "container_only_migration",
    // Looking for a newer image at an image's source.
    "image_force_refresh",
    // Descriptions on every object.
    "entity_description",
    // Links by the files endpoint.
    "file_symlinks",
    // /1.0/resources.
    "resources",
    // /1.0/instances/NAME/console.
    "console",
    // Links are shown as links by the files endpoint.
    "file_get_symlink",
    // /1.0/networks/NAME/leases.
    "network_leases",
    // Operations say what they do.
    "operation_description",
    // Lifecycle events.
    "event_lifecycle",
    // /1.0/networks/NAME/state.
    "network_state",
    // security.protection.delete.
    "container_protection_delete",
    // `recursion=2`: instances with state and snapshots in one answer.
    "container_full",
    // /1.0/projects, and `project` on what is in one: instances, images, profiles, networks, operations, events.
    "projects",
    // Copies that are brought up to date (`refresh`).
    "container_incremental_copy",
    // Copies from another project (`source.project`).
    "container_copy_project",
    // `expires_at` of snapshots, and `snapshots.expiry`.
    "snapshot_expiry",
    // `expires_at` when a snapshot is made.
    "snapshot_expiry_creation",
    // Resources by socket.
    "resources_cpu_socket",
    // What the kernel can do, in the server's environment.
    "kernel_features",
    // Events name the member that they happened on.
    "event_location",
    // Processors, memory, disks and interfaces by what they are made of.
    "resources_v2",
    // Who a command runs as, and where.
    "container_exec_user_group_cwd",
    // security.syscalls.intercept.mknod and .setxattr.
    "container_syscall_intercept",
    // /1.0/instances.
    "instances",
    // Images say what type of instance they are for.
    "image_types",
    // `filter` on instances and images.
    "api_filtering",
    // `network` in a nic device.
    "instance_nic_network",
    // What filters packets, in the server's environment.
    "firewall_driver",
    // Operating system and version in the server's environment.
    "api_os",
    // Usage of objects is listed by paths throughout.
    "usedby_consistency",
    // The keys of container_syscall_filtering by the names of deny and allow.
    "container_syscall_filtering_allow_deny_syntax",
    // Changing the state of all instances with one request.
    "instance_bulk_state_change",
    // Moving an instance to another storage pool (`pool`).
    "instance_pool_move",
    // Errors and drops among an interface's counters.
    "network_counters_errors_dropped",
    // Which storage drivers there are, in the server's environment.
    "server_supported_storage_drivers",
    // /1.0/warnings.
    "warnings",
    // Who asked for something, with its address, in lifecycle events.
    "event_lifecycle_requestor_address",
    // `all-projects` on instances.
    "instance_all_projects",
    // `recursion=1` on one instance: with state and snapshots.
    "instance_get_full",
    // Events name their project.
    "event_project",
    // `allow_inconsistent` in copies. A running source is frozen, so that they are consistent in any case.
    "instance_allow_inconsistent_copy",
    // HEAD on files.
    "instance_file_head",
    // `all-projects` on operations.
    "operations_get_query_all_projects",
    // Name and project in lifecycle events.
    "event_lifecycle_name_and_project",
    // /1.0/operations/ID/wait.
    "operation_wait",
    // `start` when an instance is made.
    "instance_create_start",
    // `all-projects` on profiles.
    "profiles_all_projects",
    // When an instance was started, in its state.
    "instance_state_started_at",
    // Configuration, devices and profiles that are to be different where an instance moves to.
    "instance_move_config",
    // `all-projects` on networks.
    "networks_all_projects",
    // security.syscalls.intercept.sysinfo.
    "container_syscall_intercept_sysinfo",
    // The machine's load among its resources.
    "resources_load",
    // `security.ipv4_filtering` and `security.ipv6_filtering` of a nic.
    "container_nic_ipfilter",
    // `security.port_isolation` of a nic.
    "instance_nic_bridged_port_isolation",
    // /1.0/instances/NAME/metadata and its templates.
    "container_edit_metadata",
    // /1.0/instances/NAME/rebuild.
    "instances_rebuild",
    // /1.0/metrics: what instances use, by Incus's names.
    "metrics",
    // Processor times among the metrics are in seconds.
    "metrics_cpu_seconds",
    // How many processes were killed for lack of memory is among the metrics.
    "metrics_memory_oom_total",
    // Hutch's own: /1.0/plugins and /1.0/plugin-keys, as docs/plugins-api.yaml has them.
    "hutch_plugins",
    // Hutch's own: /1.0/image-sources, as docs/image-sources-api.yaml has it.
    "hutch_image_sources",
];

#[cfg(test)]
mod tests {
    use super::EXTENSIONS;

    #[test]
    fn each_name_is_there_once() {
        let mut names = EXTENSIONS.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), EXTENSIONS.len());
    }

    #[test]
    fn what_would_mislead_clients_is_not_there() {
        for name in [
            "storage_and_network_operations",
            "explicit_trust_token",
            "clustering",
            "virtual-machines",
        ] {
            assert!(!EXTENSIONS.contains(&name), "{name}");
        }
    }
}
