// Package sim tries the whole system under faults, by seed: the event store node
// on a disk that loses what was not synced, and everything that stands on it, in
// one bubble of testing/synctest, on its clock.
//
//	world.go    a run: its options, its clock, its end
//	actor.go    waits and draws that are the same for a seed, whatever the scheduler does
//	disk.go     a disk in memory that can lose power
//	node.go     the node, crashed and started again
//	broker.go   NATS
//	process.go  the services, crashed and started again
//	edge.go     the edge, likewise; feeds.go: who sends it messages, and what became of them
//	wire.go     a bad network; link.go: es.Log over it
//	writers.go  clients of kit/es alone; clients.go: clients of the services
//	lists.go    the read models, and the same made anew; watch.go: who watches them
//	history.go  what was promised; check.go what became of it
//
// What makes a run repeatable is that no two things ever happen at one instant:
// see actor.
package sim
