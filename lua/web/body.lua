--- The body of a request for us, read whole.
local M = {}

local WAIT = 60000              -- ms

local faults = {
  too_large = { 413, "body_too_large", "the body is too large" },
  no_memory = { 503, "injection_unavailable", "there is no memory for the body" },
  timeout = { 408, "client_timeout", "the body did not come in time" },
}

--- The text; true: there is none; nil: the request is answered. Yields.
function M.read(self, req, max)
  if not req.has_body then return true end
  local ok, code = req:read_body(max, self.time.now() + WAIT)
  if ok then return req.body end
  local fault = faults[code] or { 400, "bad_request", "the body is malformed" }
  req:fail(fault[1], fault[2], fault[3], "", { close = true })
  return nil
end

return M
