// Package tarball knows what tars from elsewhere have in common, images as well as snapshots: how they are compressed,
// and which names in them are harmless.
package tarball
