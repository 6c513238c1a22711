// The features, in the order in which they are made: what takes rights away comes late, and threads inherit what was set before.
#include "chaos.h"

extern const struct feature feature_memory, feature_guards, feature_segments, feature_files, feature_deleted, feature_dups, feature_pipes, feature_fifos, feature_memfds,
	feature_devices, feature_eventfds, feature_epolls, feature_timerfds, feature_signalfds, feature_inotify, feature_pairs, feature_unix, feature_tcp,
	feature_udp, feature_connected, feature_handlers, feature_pending, feature_timers, feature_itimers, feature_schedule, feature_ioprio, feature_place, feature_limits,
	feature_prctl, feature_seccomp, feature_credentials, feature_threads;

const struct feature *const features[] = {&feature_memory, &feature_guards, &feature_segments, &feature_files, &feature_deleted, &feature_dups, &feature_pipes, &feature_fifos,
	&feature_memfds, &feature_devices, &feature_eventfds, &feature_epolls, &feature_timerfds, &feature_signalfds, &feature_inotify, &feature_pairs, &feature_unix,
	&feature_tcp, &feature_udp, &feature_connected, &feature_handlers, &feature_pending, &feature_timers, &feature_itimers, &feature_schedule, &feature_ioprio, &feature_place,
	&feature_limits, &feature_seccomp, &feature_credentials, &feature_prctl, &feature_threads, 0};
