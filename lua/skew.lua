--- A clock that is off spoils every signature that holds the time: AWS answers RequestTimeTooSkewed. The Date of
-- such an answer says by how much; that is logged, and kept for `doctor`.
local M = {}

local TOLERATED = 240        -- s: AWS takes five minutes either way
local SAY_EVERY = 60         -- s between two lines in the log
local KEEP_EVERY = 3600      -- s between two writes that say the same
local SHOWN = 86400          -- s: what is older says nothing of today

local KEY = "clock/off"      -- among the leases, whose writes change no configuration; no credential has a "/"

--- "3 minutes", "2 hours"
function M.span(seconds)
  local n, unit = math.abs(seconds), "second"
  if n >= 7200 then n, unit = n // 3600, "hour"
  elseif n >= 120 then n, unit = n // 60, "minute" end
  return ("%d %ss"):format(n, unit)
end

--- An upstream refused a signed request, and its clock says that ours is `off` seconds ahead.
-- at = { store, time, log, … }: a worker's pipeline.
function M.note(at, credential, host, off)
  if math.abs(off) < TOLERATED then return end
  local now = at.time.wall()
  if at.skew_said and math.abs(now - at.skew_said) < SAY_EVERY then return end
  at.skew_said = now
  at.log(("ev=clock_off credential=%s host=%s hint=\"this machine's clock is off by %s\""):format(credential, host, M.span(off)))
  local kept = at.store.peek("lease", KEY)
  if kept and math.abs(kept.off - off) < TOLERATED and math.abs(now - kept.at) < KEEP_EVERY then return end
  at.store.commit({
    { op = "put", db = "lease", key = KEY, version = kept and kept.version or 0, plain = { off = off, at = now, host = host } },
  }, at.time.now() + 5000)
end

--- For `doctor`: a sentence, or nil.
function M.report(now)
  local kept = require("store").peek("lease", KEY)
  if not kept or math.abs(now - kept.at) > SHOWN then return nil end
  return ("this machine's clock is off by %s (%s), says %s"):format(M.span(kept.off), kept.off > 0 and "ahead" or "behind",
    kept.host)
end

return M
