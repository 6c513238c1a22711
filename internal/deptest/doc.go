// Package deptest holds the test of the import rules: which package may know of which. The same rules are in the
// linter's configuration, for those who see it there first; the test holds where no linter is installed.
package deptest
