// Package e2e plays patients' stories against the whole system.
//
// A story is a file of stories/ that a clinician can read: at a time somebody
// calls something, then events stand in the record, then somebody is
// accountable, then a view shows a value. README.md says how to write one.
//
//	story.go      reads a story; knows nothing of the services
//	fields.go     sets and reads fields of any message by its path
//	standards.go  what the waiting-time rules say of a pathway
//	world_test.go the services in one process, with the story's clock
//	play_test.go  the steps of a story
//
// The services are the real ones, behind real gRPC connections with all that a
// call passes there; only the log is in memory and the bus is handed over by
// the driver, so that nothing waits for time to pass: reactions run until there
// is nothing left to hear, and when the clock moves, timers run at every
// instant that an event names on the way. After each step the whole record is
// verified.
package e2e
