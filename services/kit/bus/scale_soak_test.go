//go:build soak

package bus

const scale = 20
