from cnnkit.regularizers.group_lasso import GroupLasso as GroupLasso
