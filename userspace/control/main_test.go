package control_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails when a test leaves a goroutine behind. With the writer's variable set the process is the one that
// TestAuditSurvivesKill kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("CONTROL_TEST_AUDIT_WRITER"); dir != "" {
		writeUntilKilled(dir)
	}
	goleak.VerifyTestMain(m)
}
