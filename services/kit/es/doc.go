// Package es is the only code in Waymark that appends to the event store, and
// the only load-decide-append-retry there is.
//
// A service declares a Decider and runs every command through Streams.Do. What
// Do promises rests on four things that live in the log itself, so that they
// hold for any number of instances and over any crash:
//
//   - The expected revision is the one that the decision was based on. A cached
//     fold that is behind costs a refused append and a read of the tail, never a
//     wrong write. A refusal or a command without events is not checked by an
//     append, so it is answered only from a fold that was read in the same call.
//   - The command id and a keyed hash of the request stand in the metadata of
//     each event, and the fold keeps the last 256 of them: a repeat is
//     recognised by whoever folds the stream.
//   - Each stream is a hash chain (Chain). A fold is a check of it: a changed,
//     missing or foreign event rejects the fold with es.chain_broken instead of
//     being decided upon.
//   - Event ids are bound to content: the id of event n of a command is
//     UUIDv5(command id, n + digest of the event, its metadata and the chain
//     before it). The obvious UUIDv5(command id, n) is not enough. Two instances
//     may run one command at one revision with different bytes (their clocks and
//     trace ids differ), and the store answers the second append as a repeat of
//     the first, because it compares ids only. The second instance would then
//     hold a fold and a chain value that are not those of the log, and the next
//     event it writes would break the chain for 30 years. With ids bound to
//     content, equal bytes are a repeat and other bytes are a wrong revision; the
//     loser finds the command id in the tail and returns the winner's result.
//
// Client is the Log of an EventStoreDB-protocol node, estest.Log the one in
// memory; one suite, estest.LogSuite, holds both to the promises of Log. Client
// appends over one standing BatchAppend call where the store has one address
// (writer.go), by the library to a cluster, and reads by the library.
//
// Folds are kept from one command to the next in a Cache (cache.go), which all
// Streams of a process share and which is bounded by bytes.
//
// Follower keeps a model of the whole log in memory, and the events that it was
// made of in a file (journal.go), so that a start need not read the log again.
package es
