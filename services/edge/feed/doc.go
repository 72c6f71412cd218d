// Package feed holds the tests of the edge together with the services that it
// drives, over real sockets: what a trust's feed would meet. It has no code of
// its own.
package feed
