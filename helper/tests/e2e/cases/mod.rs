//! The cases. Those of the attack catalogue bear its number.

mod absent;
mod asking;
mod audit;
mod batch_attacks;
mod batch_command;
mod batch_deaths;
mod batches;
pub(crate) mod between;
mod block;
mod cli;
pub(crate) mod confinement;
mod contending;
mod coverage;
mod deaths;
mod detached;
mod detached_attacks;
mod document;
#[cfg(target_arch = "x86_64")]
mod escape;
mod exhaustion;
mod fuse_programs;
mod fuseblk;
mod fuseblk_attacks;
mod fusermount;
mod fusermount_compared;
mod fusermount_stays;
mod hostile_channel;
mod hostile_flood;
mod hostile_gate;
mod hostile_grants;
mod hostile_kinds;
mod hostile_moving;
mod hostile_orders;
mod identity;
mod idmap_attacks;
mod idmap_refusals;
mod idmaps;
mod images;
mod leases;
mod life;
mod limits;
mod loop_devices;
mod manager;
mod mountinfo;
mod mounting;
mod moving;
mod moving_attacks;
mod networked;
mod overlay_attacks;
mod overlays;
mod pace;
mod passed;
mod passed_attacks;
mod passed_kinds;
mod paths;
mod probes;
mod propagating;
mod protocol;
mod races;
mod remounting;
mod restart;
mod rounds;
mod serving;
mod slow;
mod start;
mod tmpfs;
mod unmounting;
mod volume_defects;
mod volume_kinds;
mod volume_uses;
mod volume_waits;
mod volumes;

use crate::Case;

macro_rules! cases {
    ($($module:ident { $($name:ident)+ })+) => {
        fn listed() -> Vec<(&'static str, Case)> {
            vec![$($((concat!(stringify!($module), "::", stringify!($name)), $module::$name as Case)),+),+]
        }
    };
}

/// Every case by its name.
pub(crate) fn all() -> Vec<(&'static str, Case)> {
    let mut all = listed();
    all.extend(escape::all());
    all
}

#[cfg(not(target_arch = "x86_64"))]
mod escape {
    use crate::{Case, Skip};

    pub(super) fn all() -> Vec<(&'static str, Case)> {
        let skip: Case = |_| {
            Err(Skip(
                "the registers of a puppet are those of x86_64".to_owned(),
            ))
        };
        vec![("escape::all", skip)]
    }
}

cases! {
    hostile_kinds {
        attack_13_every_descriptor_as_a_device
        attack_13_every_descriptor_as_a_served_device
        attack_26_a_connection_in_use
        attack_26_every_descriptor_as_a_connection
        attack_26_every_descriptor_as_a_layer
        attack_26_every_descriptor_as_an_image
        attack_26_what_others_are_granted
    }
    rounds {
        batch
        bind
        tmpfs
        block
        fuse
        detached
        idmap
        overlay
        image
        looped_image
        network
        virtiofs
        moved
        fuseblk
    }
    serving {
        a_client_serves_it
        a_lease_ends_it
        a_file_serves_as_well
        the_kernel_waits_for_the_program
        attack_12_busy_for_another
        attack_17_identity_is_the_kernels
        attack_17_refused_unless_granted
        attack_30_a_client_that_is_gone_leaves_nothing
        a_program_that_does_not_start
        squashfuse_as_a_user
        sshfs_as_a_user
    }
    fusermount {
        attack_17_refused_unless_granted
        the_connection_comes_over_the_socket
        a_private_home
        attack_05_from_another_namespace
        where_mounts_spread
        a_target_by_its_path
        unmounts_its_users_own
        dead_and_busy
        it_does_nothing_setuid
        on_a_device
    }
    fusermount_compared {
        what_is_asked_wrongly
        what_is_not_mounted
        what_is_mounted
    }
    fusermount_stays {
        until_the_program_has_died
        only_that_mount_ends
        a_living_file_system_stays
        killed_itself
        without_mounting
    }
    fuse_programs {
        squashfuse
        sshfs
        fuse_overlayfs
        gocryptfs
        bindfs
        fuse2fs
        archivemount
        rclone
    }
    block {
        ext4
        xfs
        btrfs
        a_lease_ends_it
        attack_12_busy_for_another
        attack_13_a_link_leads_straight_to_its_device
        attack_14_refused_unless_granted
        attack_19_read_only_reaches_the_device
        a_corrupt_file_system_is_an_error
        a_remount_lifts
        attack_31_a_device_that_vanishes
        an_unknown_type_is_unsupported
        by_the_command
    }
    fuseblk {
        a_program_serves_it
        a_lease_ends_it
        a_remount_sets_and_lifts_nothing
        attack_17_refused_unless_granted
        attack_19_read_only_reaches_the_device
        blocks_of_a_device
        probes
        by_the_command
    }
    fuseblk_attacks {
        attack_12_one_file_system_a_device
        attack_13_anything_else_is_no_device
        attack_31_a_program_that_keeps_it
        attack_31_nobody_shared_holds_it
        attack_31_a_device_that_vanishes
    }
    overlay_attacks {
        attack_15_a_layer_is_one_layer
        attack_19_as_restricted_as_its_layers
        attack_09_submounts_are_not_followed
        attack_26_nobody_reads_more
        attack_26_a_layer_that_misleads
    }
    images {
        erofs_from_its_file
        squashfs_takes_a_device
        attack_14_refused_unless_granted
        a_corrupt_image_is_an_error
        attack_12_busy_for_the_same
        a_lease_ends_it
        at_a_passed_target
        by_the_command
    }
    loop_devices {
        squashfs_and_erofs
        attack_14_refusals
        no_right_to_a_device
        it_ends_with_the_mount
        a_lease_ends_it
        attack_26_what_a_locker_is_asked
        attack_31_an_image_that_hangs
        attack_30_killed_in_between
    }
    overlays {
        layers_in_order
        as_many_as_there_can_be
        an_upper_layer_takes_more
        attack_14_refused_unless_granted
        what_is_no_layer
        attack_12_busy_for_the_same
        a_remount_sets_and_lifts_nothing
        attack_11_its_propagation
        a_lease_ends_it
        at_a_passed_target
        by_the_command
    }
    networked {
        nfs4
        virtiofs
        a_lease_ends_it
        attack_14_refusals
        attack_31_a_server_that_never_answers
        attack_31_a_server_that_goes
        a_secret_is_nobodys
        an_export_that_is_not_there
        each_type_is_asked_of_the_kernel
    }
    mounting {
        bind_directory
        from_all_of_the_tree
        bind_file
        bind_read_only
        attack_09_recursive_only_where_granted
        attack_10_never_without_nosuid
        attack_11_private_unless_granted
        attack_12_busy_for_another_mount
        attack_17_suid_and_dev_only_where_granted
        attack_17_forced_flags_without_asking
        attack_19_flags_are_the_kernels
        already_mounted_is_the_same_mount
        already_mounted_from_a_restricted_source
        already_mounted_with_much_beneath
        concurrent_requests_make_one_mount
        directory_and_file_do_not_mix
    }
    tmpfs {
        has_its_limits_and_owner
        attack_12_busy_for_another
        attack_18_extremes
    }
    unmounting {
        normal_and_twice
        busy_then_lazy
        by_id
        by_id_of_an_ended_mount
        not_granted
        topmost_of_a_stack
        attack_02_links_are_not_followed
    }
    asking {
        list_is_the_peers_own
        list_goes_over_pages
        a_path_too_long_to_name
        explain_changes_nothing
        a_denial_tells_nothing_of_what_exists
        status_says_what_confines
    }
    mountinfo {
        a_lease_takes_unique_ids
        says_what_serves
        odd_paths_are_nobody_elses_trouble
        agrees_with_statmount
        holds_while_the_table_changes
        an_id_is_given_away
        bind_directory
        bind_file
        attack_09_recursive_only_where_granted
        attack_11_private_unless_granted
        attack_12_busy_for_another_mount
        attack_19_flags_are_the_kernels
        already_mounted_is_the_same_mount
        concurrent_requests_make_one_mount
        has_its_limits_and_owner
        busy_then_lazy
        by_id
        attack_16_what_others_put_there_stays
        attack_31_dead_and_hung_file_systems
        it_keeps_all_but_its_place
        refusals
        attack_03_target_renamed_while_moving
        attack_11_a_slave_receives_and_does_not_send
        shared_goes_both_ways
        topmost_of_a_stack
        list_is_the_peers_own
        list_goes_over_pages
        status_says_what_confines
        attack_33_control_bytes
        attack_05_source_mount_detached
        attack_03_target_renamed_while_attaching
        attack_11_shared_while_attaching
        attack_31_a_private_file_system
        attack_26_other_users_grants
        alive_and_absent
        beneath_a_private_directory
        attack_12_covered_since_it_was_opened
        attack_12_one_at_a_time
        mounts_per_user
        walks_of_the_table_count
        attack_32_restart_with_live_mounts
        processes_are_confined
        attack_28_tables_are_printed
        attack_05_every_descriptor_in_every_place
        a_directory_and_a_file
        attack_35_flags_cannot_be_cleared
        owners_are_mapped
        the_same_again_is_busy
    }
    paths {
        attack_01_malformed_paths
        attack_02_replaced_root
        attack_04_magic_links
        attack_07_wrong_file_types
        attack_08_protected_targets
        attack_15_separators_are_bytes
        attack_33_control_bytes
        unreachable_and_missing
    }
    between {
        attack_03_source_renamed_away
        attack_05_source_mount_detached
        attack_06_removed_before_the_check
        a_changed_target_is_tried_again
        attack_12_mounted_over_before_the_check
        attack_12_stacked_over_before_the_check
        attack_03_target_renamed_while_attaching
        attack_30_killed_while_attaching_a_lease
        attack_12_mounted_over_while_attaching
        attack_11_shared_while_attaching
        attack_30_a_stop_waits_for_the_request
        attack_34_many_orders_at_once
        attack_03_target_renamed_until_the_deadline
        attack_31_a_private_file_system
    }
    contending {
        attack_12_one_at_a_time
        attack_03_one_at_a_time_under_two_names
        attack_31_a_wait_for_another_times_out
    }
    races {
        attack_02_leaf_swapped_for_a_symlink
        attack_02_ancestor_swapped_for_a_symlink
        attack_02_root_replaced
        attack_03_ancestor_renamed_away
        attack_03_directories_change_names
        attack_06_target_removed
        attack_12_anothers_mount
        attack_13_source_swapped
    }
    deaths {
        attack_30_roles_killed_under_load
        attack_30_clients_killed_under_load
    }
    protocol {
        attack_20_bad_frames
        attack_20_unknown_version
        attack_21_slow_and_silent_clients
        attack_22_unexpected_descriptors
        attack_23_out_of_state
    }
    identity {
        attack_24_identity_is_of_the_connection
        attack_24_unmapped_users_are_nobody
        attack_25_groups_at_connect
        attack_25_unmapped_groups_are_nobodys
        attack_26_other_users_grants
    }
    confinement {
        processes_are_confined
        attack_27_not_to_be_traced_or_read
        attack_28_tables_are_printed
    }
    absent {
        attack_13_devices_are_no_sources
        attack_14_other_kinds_are_no_requests
        attack_35_no_reply_brings_a_descriptor
    }
    audit {
        examples_and_fields
        a_flood_of_connections_is_one_line
        attack_25_a_user_without_a_number
        a_log_that_is_gone_ends_the_helper
    }
    remounting {
        attack_16_forced_flags_are_never_lifted
        attack_16_only_where_granted
        attack_16_what_others_put_there_stays
        attack_16_a_mount_is_no_proof_of_itself
        attack_16_replaced_before_the_check
        attack_16_locked_by_the_kernel
        attack_19_flags_are_the_kernels
        attack_26_roots_of_other_mounts
        attack_31_dead_and_hung_file_systems
        forced_flags_come_with_it
        by_id_and_where_nothing_is
        busy_while_open_for_writing
    }
    moving {
        it_keeps_all_but_its_place
        attack_16_only_where_granted
        attack_16_read_only_kinds
        attack_16_locked_by_the_kernel
        attack_12_never_on_anothers_mount
        attack_11_neither_from_nor_to_shared_mounts
        attack_02_links_are_not_followed
        attack_31_dead_and_hung_file_systems
        refusals
        a_leased_mount_stays
        the_target_is_the_peers
    }
    moving_attacks {
        attack_02_leaf_swapped_for_a_symlink
        attack_02_ancestor_swapped_for_a_symlink
        attack_03_ancestor_renamed_away
        attack_03_target_renamed_while_moving
        attack_11_target_shared_while_moving
        attack_12_mounted_over_while_moving
        attack_12_mounted_beneath_while_moving
        attack_12_ended_before_the_check
        attack_12_moves_that_cross
        attack_30_killed_while_moving
    }
    hostile_moving {
        attack_22_orders_that_do_not_fit
        attack_26_roots_of_other_mounts
        attack_26_a_session_that_does_not_help
    }
    propagating {
        attack_11_a_private_mount_spreads_nothing
        attack_11_a_slave_receives_and_does_not_send
        attack_11_only_where_granted
        attack_11_shared_on_a_shared_target
        attack_11_target_shared_while_attaching
        attack_08_sources_that_nothing_covers
        shared_goes_both_ways
        a_shared_tmpfs
        a_slave_needs_a_master
        already_mounted_has_the_same
    }
    coverage {
        every_entry_is_used
    }
    document {
        one_of_each
        tables_are_true
    }
    hostile_orders {
        attack_05_every_descriptor_in_every_place
        attack_05_right_descriptors_in_wrong_places
        attack_05_removed_and_named_so
        attack_05_unopened_roots_are_compared
        attack_05_covered_since_it_was_opened
        attack_22_counts_of_descriptors
    }
    hostile_grants {
        attack_26_what_others_are_granted
        attack_26_never_freer_than_the_grant
    }
    hostile_channel {
        attack_18_values_that_are_never_valid
        attack_20_answers_that_are_none
        attack_20_bytes_that_are_no_order
        attack_20_noise
        attack_23_replays
        attack_23_ends_in_the_middle
        attack_33_notes
    }
    hostile_flood {
        attack_26_a_flood_that_nobody_reads
        attack_26_a_mount_that_nobody_hears_of
        attack_26_the_heaviest_orders
    }
    hostile_gate {
        attack_22_connections_with_other_descriptors
        attack_23_the_gate_says_nothing
        attack_26_sockets_that_are_no_client
        attack_26_sockets_with_the_helpers_name
        attack_26_a_mounter_is_its_clients
        attack_26_limits_without_the_gate
        attack_26_order_channels_that_are_none
        attack_26_the_warden_waits_for_nobody
        attack_34_no_room_for_descriptors
    }
    life {
        attack_30_a_killed_role_ends_its_connection
        attack_30_a_killed_warden_leaves_nothing_behind
        attack_30_a_mounter_is_gone_inside_a_frame
        attack_30_what_does_not_stop_is_killed
        an_abort_is_no_seccomp_kill
        attack_30_what_a_lost_mounter_had
        attack_31_a_hung_file_system
        a_deadline_ends_with_its_request
    }
    restart {
        attack_32_restart_with_live_mounts
        stop_leaves_mounts
        client_reconnects
        no_connection_fails_with_a_kept_socket
        a_caller_who_repeats_does_not_notice
        attack_30_killed_with_requests_in_flight
        a_new_policy_takes_effect
        a_bad_policy_leaves_clients_waiting
    }
    manager {
        the_watchdog_hears_of_gate_and_warden
        another_mount_namespace_is_noticed
        the_unit_keeps_to_the_machines_namespace
    }
    limits {
        connections_per_user
        connections_of_all
        mounts_per_user
        a_place_is_one_users
    }
    pace {
        one_users_requests
        one_budget_for_all_connections
        who_would_wait_too_long
        walks_of_the_table_count
    }
    slow {
        attack_21_ten_thousand_silent_connections
        attack_21_a_frame_that_stalls
        attack_21_a_client_that_never_reads
        attack_21_half_closed
    }
    exhaustion {
        attack_34_the_gate_has_no_descriptor
        attack_34_no_process_left
        attack_34_no_memory_left
        attack_34_no_mount_left
    }
    start {
        with_a_passed_socket
        passed_sockets_that_do_not_fit
        attack_34_too_few_descriptors
        signals_of_the_starter_do_not_matter
        in_a_user_namespace
        attack_raised_rights_are_refused
        more_capabilities_than_it_can_drop
        without_a_capability
        untrusted_files
        bad_policies
        stale_socket_is_replaced
        a_second_helper_is_refused
    }
    passed {
        beneath_a_private_directory
        a_private_home
        owners
        the_root_of_a_dead_file_system
        attack_12_covered_since_it_was_opened
        attack_12_mounted_over_while_attaching
        attack_12_one_at_a_time
        attack_03_renamed_before_the_check
        attack_06_removed_before_the_check
    }
    passed_kinds {
        a_device
        a_served_file_system
        a_served_device
        a_program_that_does_not_start
        a_lease
    }
    passed_attacks {
        attack_05_every_descriptor
        attack_07_beside_a_directory
        attack_22_descriptors_that_do_not_fit
        attack_22_orders_that_do_not_fit
        attack_26_passed_orders
        attack_26_passed_unmounts
    }
    leases {
        ends_with_its_connection
        attack_30_whoever_is_killed
        a_later_mount_is_left_alone
        a_close_and_a_mount_race
        busy_mounts_leave_the_tree
        an_unmount_is_the_end_of_it
        refusals
        a_stop_ends_leases
        a_killed_helper_leaves_the_mount
        a_lost_lease_is_told
        silence_is_no_end
        a_covered_mount_is_left_alone
        a_renamed_directory
        many_at_once
        attack_34_no_descriptor_for_it
        the_command_holds_it
    }
    detached {
        a_directory_and_a_file
        the_command_attaches_it
        refusals
        sources
        only_where_granted
        flags_are_the_kernels
        the_locker_is_reported
        without_a_locker
        a_locker_that_does_not_answer
        attack_30_a_killed_locker
        attack_30_the_child_is_killed
    }
    detached_attacks {
        attack_35_flags_cannot_be_cleared
        attack_35_a_flag_that_is_not_locked
        attack_35_mounts_beneath_stay
        attack_11_nothing_spreads
        attack_05_it_is_no_source
        attack_22_orders_that_do_not_fit
        attack_26_only_the_client_gets_it
        attack_26_a_client_that_is_gone
        attack_26_what_a_locker_is_sent
    }
    idmaps {
        owners_are_mapped
        a_container_owns_its_files
        on_a_disk
        the_same_again_is_busy
        mounts_beneath_are_mapped
        with_passed_locations
        remounts_and_leases
        what_is_handed_over_is_mapped
        the_command_passes_it
        a_locker_for_maps_alone
    }
    idmap_refusals {
        attack_36_refusals
        only_where_granted
        what_the_kernel_does_not_map
    }
    idmap_attacks {
        attack_22_a_namespace_that_nobody_asked_for
        attack_26_another_namespace
        attack_26_what_a_locker_is_asked
        attack_31_who_enters_is_stopped
    }
    batches {
        a_tree_is_applied
        a_failure_at_any_place_leaves_nothing
        attack_26_denied_last_and_nothing_is_tried
        what_is_there_already_stays
        a_device_among_others
        leases_of_a_batch
        limits_hold_across_a_batch
        busy_and_covered_when_taken_back
        unfinished_is_not_already_mounted
        two_clients_apply_the_same
        not_without_unique_ids
    }
    batch_command {
        applies_a_file
        holds_leases
    }
    batch_deaths {
        attack_30_whoever_is_killed
        attack_30_a_client_that_has_gone
        attack_30_killed_at_any_moment
        attack_31_a_source_that_hangs
        a_stop_takes_it_back
        a_killed_helper_leaves_a_part
    }
    batch_attacks {
        attack_26_entries_without_an_end
        attack_26_orders_out_of_place
        attack_26_what_it_did_not_make
        attack_26_places_run_out
        attack_21_a_spent_budget_holds_up_no_end
    }
    probes {
        alive_and_absent
        refusals
        a_server_that_dies
        attack_31_a_server_that_hangs
        a_hang_ends_with_the_helpers_deadline
        a_private_file_system
    }
    volumes {
        the_whole_life
        an_export_has_one_mount
        connecting_makes_it_good
        validating_looks_at_the_mount
        disconnecting_what_is_not_good
        without_systemd
        arguments_are_configured
    }
    volume_defects {
        a_dead_server_is_stale_and_repaired
        busy_is_an_error_number
        the_last_use_unmounts
        what_is_not_good_is_not_connected
        nothing_is_covered
        one_mount_is_judged_by_its_own_marks
        nothing_is_inherited
        what_a_program_says_is_kept_apart
    }
    volume_waits {
        a_lock_for_each_mount
        a_hang_leaves_others_alone
        a_server_that_keeps_who_asks
        every_step_has_a_deadline
        killed_while_its_program_mounts
        killed_while_it_waits
    }
    volume_uses {
        held_uses_end_with_their_process
        named_uses_outlive_a_crash
        two_hundred_processes
    }
    volume_kinds {
        a_bind
        a_device
        an_image
    }
    cli {
        exit_statuses_and_sentences
        json_shapes
        every_form_explains
    }
}
