--- Files that commands leave, `--out` among them. The folder may be an agent's, who may lay a link, a pipe or a file of its
-- own in the way: what stands under the name must be a plain file, and what takes its place is made anew beside it, under a
-- name that nobody could foresee.
local M = {}

--- Whole or not at all, and on the disk when it returns. true | nil, why
function M.write(host, path, text, mode)
  local there = host.stat(path)
  if there and there.type ~= "file" then return nil, "what stands there is no plain file" end
  local tmp = ("%s.%s"):format(path, host.random_token(""):sub(1, 16))
  local file, why = host.create(tmp, mode)
  if not file then return nil, why == "absent" and "there is no such folder" or why end
  local ok
  ok, why = file:write(text)
  if ok then ok, why = file:flush() end
  if ok then ok, why = host.sync(file) end
  file:close()
  if ok then ok, why = os.rename(tmp, path) end
  if ok then return true end
  os.remove(tmp)
  return nil, why
end

return M
