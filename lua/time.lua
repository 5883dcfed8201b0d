--- The clocks: time.core (proxy.c), and which boot it is.
local M = require "time.core"

--- boot_id() -> text. The kernel's UUID for this boot, "" where it cannot be read: times of time.boot compare only under the same
-- one. For commands, which read files; worker.start has one for a worker.
function M.boot_id()
  local file <close> = io.open "/proc/sys/kernel/random/boot_id"
  return file and file:read(36) or ""
end

return M
