//go:build !soak

package run

import "time"

// outage is how long the node is away; make soak takes longer.
const outage = 3 * time.Second
