//go:build !soak

package bus

// scale multiplies the events of the long tests.
const scale = 1
