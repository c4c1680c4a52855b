package userspace

import (
	"fmt"
	"os"
	"syscall"

	"github.com/portcullis/portcullis/userspace/shim/proxy"
)

// Restart has a daemon begin anew in its process, by its file as it is now, so that clients of the proxy wait meanwhile
// rather than being refused. The zero value is ready to be a Config's.
type Restart struct{ kept proxy.Kept }

// Exec makes the process another one, once [Run] has ended. It returns only if it fails.
func (r *Restart) Exec(file string, argv []string) error {
	line, err := r.kept.Environ()
	if err == nil {
		err = syscall.Exec(file, argv, append(os.Environ(), line))
	}
	return fmt.Errorf("restart %s: %w", file, err)
}
