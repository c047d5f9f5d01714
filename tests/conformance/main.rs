//! Knative's ingress conformance suite, row by row, on its recorded objects; what Serving makes of Services; and the
//! stream of stats to an autoscaler.
//!
//! Source of the rows: knative/networking `test/conformance/ingress`. Each goes through the real `parkway run` with a
//! manifest and through the real `parkway serve` with the API server's double, but for what only a cluster has.
//!
//! | row | case |
//! |---|---|
//! | basics | [`basics`]: `request_to_the_host_of_a_rule_reaches_its_backend` |
//! | basics/http2 | [`basics`]: `backend_with_an_h2c_port_is_spoken_to_by_http2_for_a_client_by_http1` |
//! | grpc | [`upgrades`]: `hundred_messages_come_back_over_a_grpc_stream_to_an_authority_with_a_port` |
//! | grpc/split | [`upgrades`]: `grpc_calls_are_split_and_each_stays_on_its_backend` |
//! | headers/pre-split | [`headers`]: `header_of_a_path_overwrites_what_the_client_sent` |
//! | headers/post-split | [`headers`]: `each_split_sets_its_own_header_and_all_splits_are_seen` |
//! | headers/probe | [`headers`]: `probe_gets_the_hash_of_the_kingress_or_the_value_it_carries` |
//! | headers/tags | [`headers`]: `tag_header_chooses_the_path_that_asks_for_its_value` |
//! | hosts/multiple | [`basics`]: `every_host_of_a_rule_is_served` |
//! | host-rewrite | [`visibility`]: `rewritten_host_leads_by_an_external_name_through_the_inner_entrance` |
//! | dispatch/path | [`dispatch`]: `each_path_goes_to_its_backend_and_others_to_the_default` |
//! | dispatch/percentage | [`dispatch`]: `ten_splits_get_their_shares_and_those_of_none_get_nothing` |
//! | dispatch/path_and_percentage | [`dispatch`]: `shares_of_one_path_are_its_own` |
//! | dispatch/rule | [`dispatch`]: `rules_of_one_kingress_do_not_mix` |
//! | retry | [`basics`]: `a_503_of_the_backend_is_passed_on_and_the_request_not_sent_again` |
//! | timeout | [`basics`]: `answer_may_take_its_time_before_its_head_and_before_its_body` |
//! | tls | [`only_in_a_cluster`]: `host_with_a_secret_is_served_plainly_and_by_tls` |
//! | httpoption | [`only_in_a_cluster`]: `redirect_of_one_kingress_is_not_that_of_another` |
//! | ingressclass | [`only_in_a_cluster`]: `kingress_of_another_class_or_none_stays_as_it_was_made` |
//! | update | [`update`]: `updates_take_effect_at_once_and_no_request_fails` |
//! | visibility | [`visibility`]: `cluster_local_rule_is_404_outside_and_served_inside_for_each_of_its_names`, `workload_calls_a_cluster_local_name_through_the_inner_entrance` |
//! | visibility/split | [`visibility`]: `shares_of_a_cluster_local_rule_are_kept` |
//! | visibility/path | [`visibility`]: `paths_of_a_cluster_local_rule_are_404_outside_and_told_apart_inside` |
//! | websocket | [`upgrades`]: `hundred_messages_come_back_over_a_web_socket` |
//! | websocket/split | [`upgrades`]: `web_sockets_are_split_and_each_stays_on_its_backend` |

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod autoscaler;
mod basics;
mod dispatch;
mod grpc;
mod headers;
mod images;
mod only_in_a_cluster;
mod recording;
mod serving;
mod source;
mod suite;
mod update;
mod upgrades;
mod visibility;
mod websocket;
