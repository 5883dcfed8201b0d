--- The body of a request for us, read whole; and how long an answer may be.
local M = { ANSWER_MAX = 8 << 20 }      -- bytes of an answer of ours (req:respond)

local WAIT = 60000              -- ms

local faults = {
  too_large = { 413, "body_too_large", "the body is too large" },
  no_memory = { 503, "injection_unavailable", "there is no memory for the body" },
  timeout = { 408, "client_timeout", "the body did not come in time" },
}

--- The text; true: there is none; nil: the request is answered. say: answers where it cannot be had, with (status, code, message), in the place of
-- an error in JSON. Yields.
function M.read(self, req, max, say)
  if not req.has_body then return true end
  local ok, code = req:read_body(max, self.time.now() + WAIT)
  if ok then return req.body end
  local fault = faults[code] or { 400, "bad_request", "the body is malformed" }
  if say then say(table.unpack(fault)) else req:fail(fault[1], fault[2], fault[3], "", { close = true }) end
  return nil
end

return M
