--- Sign-ins that wait for a browser to come back from a provider's page: a table of { till = when it ends, of = whose it is } each.
local M = {}

--- Forgets what has ended, and makes room for one more among `most`: of whoever has the most the one that ends first goes, so that nobody's
-- beginnings push out another's. now: of the clock that `till` is of.
function M.room(list, now, most)
  local n, has, gone = 0, {}, nil
  for key, one in pairs(list) do
    if one.till <= now then
      list[key] = nil
    else
      n, has[one.of] = n + 1, (has[one.of] or 0) + 1
    end
  end
  if n < most then return end
  for key, one in pairs(list) do
    local was = list[gone]
    local more = was and has[one.of] - has[was.of]
    if not was or more > 0 or more == 0 and one.till < was.till then gone = key end
  end
  list[gone] = nil
end

return M
