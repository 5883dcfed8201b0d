--- Sign-ins that wait for a browser to come back from a provider's page: a table of values with `till`, when each ends.
local M = {}

--- Forgets what has ended, and makes room for one more among `most`: the one that ends first goes. now: of the clock that `till` is of.
function M.room(list, now, most)
  local n, oldest = 0, nil
  for key, one in pairs(list) do
    if one.till <= now then
      list[key] = nil
    else
      n = n + 1
      if not oldest or one.till < list[oldest].till then oldest = key end
    end
  end
  if n >= most then list[oldest] = nil end
end

return M
