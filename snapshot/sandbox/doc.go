// Package sandbox makes the place a container lives in: network namespace, cgroup, root file system and mounts.
//
// The process that uses it, a shim, has a mount namespace of its own ([StartPrivate], [Slave]); every mount made here is made
// there, and network namespaces are held by descriptors only. When the shim dies, the kernel takes mounts, namespaces
// and interfaces away; what it cannot take away (address leases, cgroups, the bridge) has a sweep.
package sandbox
