//go:build soak

package run

import "time"

// outage is how long the node is away.
const outage = 30 * time.Second
