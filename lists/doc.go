// Package lists says what an entry of the whitelist and the blacklist is, how it is written and which entry wins.
//
// It is the floor of the house: values only, standard library only, no files, no goroutines, no clock of its own.
// [Snapshot] is the immutable value everything else is fed with; [Builder] makes the next one; [ApplyOps] is what
// a batch of operations means, the same for every store; [Match] is the slow, obvious reference matcher that the
// kernel program and every fast matcher are tested against.
package lists
