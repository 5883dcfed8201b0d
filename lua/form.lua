--- application/x-www-form-urlencoded: lists of pairs { {name, value}, … } become texts. Reading is lua/percent.lua's.
local percent, secrets, join = require "percent", require "secret", require("secret.core").join
local M = { parse = percent.parse, values = percent.values }

local MANY = 1000       -- pairs: a URL that long reaches no server

--- form.encode(pairs [, code]), form(pairs) -> string | secret. A pair whose value is nil is left out, so that an
-- optional parameter needs no `if`. code: the function that escapes names and values, secret.form if absent.
function M.encode(list, code)
  local out = {}
  if type(list) ~= "table" then error("table expected, of pairs", 2) end
  if rawlen(list) > MANY then error(("more than %d pairs"):format(MANY), 2) end
  for i = 1, rawlen(list) do
    local pair = rawget(list, i)
    if type(pair) ~= "table" then error(("pair %d is not a table { name, value }"):format(i), 2) end
    for k = 1, rawget(pair, 2) ~= nil and 2 or 0 do
      local v = rawget(pair, k)
      if type(v) == "number" then v = tostring(v) end
      if type(v) ~= "string" and not secrets.is(v) then
        error(("pair %d: the %s is no string, number or secret"):format(i, k == 1 and "name" or "value"), 2)
      end
      out[#out + 1] = k == 2 and "=" or #out > 0 and "&" or ""
      out[#out + 1] = (code or secrets.form)(v)
    end
  end
  return join(out)
end

return setmetatable(M, { __call = function(_, list) return M.encode(list) end })
