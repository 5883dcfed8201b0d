--- Secrets as policies have them: handles, of which these are all the uses beside `..`. Each takes strings, too, and
-- answers the same kind. What the runtime alone may do is in secret.core (proxy.c, bind: values).
local core = require "secret.core"
local M = {}

for name in ("is base64 base64url hex percent form json_string decode sha256 hmac"):gmatch("%S+") do M[name] = core[name] end

--- secret.template("Bearer ${token}", { token = … }) -> string | secret. `${name}` is a place, `$$` a dollar, any other `$`
-- itself. Values: string, number, secret. Raises for a place without a name or a value.
function M.template(text, values)
  if type(text) ~= "string" then error("template: the text is no string", 2) end
  if type(values) ~= "table" then error("template: the values are no table", 2) end
  local out, at = {}, 1
  while at <= #text do
    local dollar = text:find("$", at, true)
    out[#out + 1] = text:sub(at, (dollar or #text + 1) - 1)
    if not dollar then break end
    local after = text:sub(dollar + 1, dollar + 1)
    at = dollar + (after == "$" and 2 or 1)
    if after == "{" then
      local close = text:find("}", dollar, true)
      if not close or close == dollar + 2 then error("template: '${' without a name and '}'", 2) end
      local name = text:sub(dollar + 2, close - 1)
      local value = rawget(values, name)
      if type(value) == "number" then value = tostring(value) end
      if type(value) ~= "string" and not core.is(value) then error(("template: no value for '${%s}'"):format(name), 2) end
      out[#out + 1], at = value, close + 1
    else
      out[#out + 1] = "$"
    end
  end
  return core.join(out)
end

return M
