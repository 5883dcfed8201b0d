--- A browser that comes back to a command (RFC 8252 7.3): a loopback listener, whose requests wait for their answers.
local time = require "time"
local M = {}
M.__index = M

local POLL = 20            -- ms between two looks, of who waits for a request and of who waits for an answer
local PATIENCE = 60000     -- ms that a request waits: an exchange of the code takes some seconds
local FLUSH = 2000         -- ms for an answer to go out before the command ends
local FIELDS = { { "Content-Type", "text/html; charset=utf-8" }, { "Cache-Control", "no-store" }, { "Referrer-Policy", "no-referrer" },
  { "X-Content-Type-Options", "nosniff" }, { "X-Frame-Options", "DENY" },
  { "Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'" } }

-- One request, in a task of its own.
local function handle(self, req)
  if req.form ~= "origin" then
    return req:respond(404, FIELDS, "no such page\n")
  end
  local mine = { method = req.method, path = req.path, query = req.query or "", host = ("%s:%d"):format(req.host, req.port) }
  local until_ = time.now() + PATIENCE
  self.waiting[#self.waiting + 1] = mine
  while not mine.status and time.now() < until_ do time.sleep(POLL) end
  req:respond(mine.status or 404, FIELDS, mine.page or "no such page\n")
  mine.sent = true
end

--- callback.open(host, address, port) -> listener, port | nil, "in_use" | why. A loopback address; port 0 picks one.
function M.open(host, address, port)
  local self = setmetatable({ host = host, waiting = {} }, M)
  local bound, why = host.listen { address = address, port = port, handler = function(req) return handle(self, req) end }
  if not bound then return nil, why end
  return self, why
end

--- The next request: { method, path, query, host } | nil, "timeout". One that was not answered is refused first.
function M:next(deadline)
  if self.current and not self.current.status then self.current.status = 404 end
  while not self.waiting[1] do
    if time.now() >= deadline then return nil, "timeout" end
    time.sleep(POLL)
  end
  self.current = table.remove(self.waiting, 1)
  return self.current
end

--- Answers the request that `next` gave.
function M:answer(status, page)
  self.current.status, self.current.page = status, page
end

--- Nobody is let in any more; the last answer goes out first.
function M:close()
  local until_ = time.now() + FLUSH
  while self.current and self.current.status and not self.current.sent and time.now() < until_ do time.sleep(POLL) end
  if self.current then time.sleep(POLL) end
  self.host.listen_close()
end

return M
