--- One at a time: whoever comes meanwhile waits for its turn, and not for ever.
local M = {}

local POLL, PATIENCE = 20, 30000        -- ms between two looks, and that one waits for the one before

--- take() -> the turn, until it is closed, on whatever way it ends | nil: the one before took too long. Yields.
function M.new()
  local busy = false
  return function()
    local time = require "time"
    local until_ = time.now() + PATIENCE
    while busy do
      if time.now() > until_ then return nil end
      time.sleep(POLL)
    end
    busy = true
    return setmetatable({}, { __close = function() busy = false end })
  end
end

return M
