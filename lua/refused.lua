--- An upstream that answered 401 to what a credential attached: kept for `credential show`, so that whoever looks for the
-- fault finds it where it can be mended.
local M = {}

local KEEP_EVERY = 60        -- s between two writes about one credential

--- Among the leases, whose writes change no configuration; no credential has a "/" in its name.
function M.key(name) return "refused/" .. name end

--- at = { store, time, … }: a worker's pipeline. `version`: of the credential's record.
function M.note(at, name, version, host)
  local now = at.time.wall()
  local kept = at.store.peek("lease", M.key(name))
  if kept and kept.of == version and kept.host == host and math.abs(now - kept.at) < KEEP_EVERY then return end
  at.store.commit({
    { op = "put", db = "lease", key = M.key(name), version = kept and kept.version or 0,
      plain = { at = now, host = host, of = version } },
  }, at.time.now() + 5000)
end

--- { at, host } | nil: none since the credential was last changed, or a token was last fetched for it.
function M.last(record, obtained_at)
  local kept = require("store").peek("lease", M.key(record.name))
  if not kept or kept.of ~= record.version or obtained_at and obtained_at > kept.at then return nil end
  return { at = kept.at, host = kept.host }
end

return M
